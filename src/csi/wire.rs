//! The messages and services of `proto/`, as `build.rs` generates them, and their `Debug` where a message may hold secrets.
//!
//! The generator forgets the mark `csi_secret`. So no message with secrets has a derived `Debug`: `redacted` writes one that
//! shows the keys alone.

use std::{collections::BTreeMap, fmt};

/// Package `csi.v1` of `proto/csi.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// `proto/pluginregistration.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

#[cfg(test)]
mod tests;

/// The keys of secrets without their values.
struct Keys<'a>(&'a BTreeMap<String, String>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `Debug` for a message with secrets: the named fields, and the keys of the secrets.
macro_rules! redacted {
    ($($message:ident { $($field:ident),* })*) => {
        $(impl fmt::Debug for v1::$message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .field("secrets", &Keys(&self.secrets))
                    .finish()
            }
        })*
    };
}

redacted! {
    CreateVolumeRequest {
        name, capacity_range, volume_capabilities, parameters, volume_content_source, accessibility_requirements,
        mutable_parameters
    }
    DeleteVolumeRequest { volume_id }
    ValidateVolumeCapabilitiesRequest {
        volume_id, volume_context, volume_capabilities, parameters, mutable_parameters
    }
    ControllerExpandVolumeRequest { volume_id, capacity_range, volume_capability }
    NodeStageVolumeRequest { volume_id, publish_context, staging_target_path, volume_capability, volume_context }
    NodePublishVolumeRequest {
        volume_id, publish_context, staging_target_path, target_path, volume_capability, readonly, volume_context
    }
    NodeExpandVolumeRequest { volume_id, volume_path, capacity_range, staging_target_path, volume_capability }
    NodeGetStorageHealthRequest {}
}
