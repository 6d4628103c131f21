//! What to do about a claim: [`plan`], pure.

use std::{sync::Arc, time::Duration};

use crate::provisioner::{
    cache::{Cache, Claim, LocationKey, Relation},
    class::{Class, ProvisionOptions},
    limits::{FIELD_BYTES, PATTERN_BYTES, shortened},
    objects::DataSource,
};
use crate::{
    backend::{Backend, Backends, Error, Finding, Kind, Retry},
    volume::{Access, Capacity, Disposal, Invalid, Mode, VolumeName, VolumeRequest},
};

/// What to do about a claim.
#[derive(Debug)]
pub(in crate::provisioner) enum Plan {
    /// Nothing; it has what it wants.
    Ignore,
    /// Nothing: it is not ours, though it names us; the text is for logs.
    Foreign(String),
    /// The class needs labels or annotations of the claim that were not kept: it has to be read once more.
    Reread,
    /// Nothing before something changes; the text is for logs.
    Wait(&'static str),
    /// Nothing, since another controller will; the text tells the user.
    LeaveToPopulator(String),
    /// There can be no volume before something changes.
    Reject(Rejection),
    Provision(Box<Order>),
}

/// Why there can be no volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provisioner) struct Rejection {
    pub(in crate::provisioner) why: String,
    /// Whether it may succeed by itself later.
    pub(in crate::provisioner) again: Again,
}

/// When a rejected claim is looked at again, beside whenever it or its class changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provisioner) enum Again {
    /// Not before.
    OnChange,
    /// At the usual pace.
    Later,
    /// At the usual pace; and since classes may be told later than claims, not before it was asked whether there is none.
    NoClass,
    /// When the volume, or the claim being provisioned, with this id is gone; and at the usual pace.
    After(Arc<str>),
}

/// A volume to be made.
#[derive(Clone)]
pub(in crate::provisioner) struct Order {
    pub(in crate::provisioner) claim: Arc<Claim>,
    pub(in crate::provisioner) class: Arc<Class>,
    pub(in crate::provisioner) backend: Arc<dyn Backend>,
    pub(in crate::provisioner) request: VolumeRequest,
    pub(in crate::provisioner) location: LocationKey,
    pub(in crate::provisioner) disposal: Disposal,
    /// How long what is deleted stays in the trash, where the class says so.
    pub(in crate::provisioner) retention: Option<Duration>,
    /// What the class says that is not read.
    pub(in crate::provisioner) unknown: Option<String>,
    /// What else an administrator should know about the class.
    pub(in crate::provisioner) findings: Arc<[Finding]>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order")
            .field("claim", &self.claim)
            .field("request", &self.request)
            .field("location", &self.location)
            .field("disposal", &self.disposal)
            .finish_non_exhaustive()
    }
}

impl Order {
    /// The backend and the store that the volume will lie in.
    pub(in crate::provisioner) fn store(&self) -> (&'static str, Box<str>) {
        (self.backend.capabilities().name, self.location.store().into())
    }

    /// Whether the class lets the volume lie at exactly the location of another one.
    pub(in crate::provisioner) fn may_share(&self) -> bool {
        self.request.placement.as_ref().is_some_and(|placement| placement.may_share)
    }
}

/// Decides about a claim that names one of our provisioners. `parsed` is what was decided last, so that a claim and a class
/// that are still the same are not parsed again.
pub(in crate::provisioner) fn plan(
    claim: &Arc<Claim>,
    cache: &Cache,
    backends: &Backends,
    parsed: Option<&Order>,
) -> Plan {
    let name = match VolumeName::for_claim(&claim.uid) {
        Ok(name) => name,
        Err(error) => return error.into(),
    };
    if cache.volume(name.as_str()).is_some_and(|volume| *volume.claim_uid == *claim.uid) {
        return Plan::Ignore;
    }
    let Some(class) = cache.class(&claim.class) else { return no_class(&claim.class) };
    if *class.provisioner != *claim.provisioner {
        return Plan::Foreign(format!(
            "the claim names the provisioner {:?}, but its storage class {:?} names {:?}",
            claim.provisioner,
            class.name,
            shortened(&class.provisioner, FIELD_BYTES)
        ));
    }
    let Some(backend) = backends.get(&class.provisioner) else { return Plan::Ignore };
    if !claim.has(&cache.class_keys(&claim.class)) {
        return Plan::Reread;
    }
    if class.waits_for_consumer && !claim.node_selected {
        return Plan::Wait(
            "the class uses WaitForFirstConsumer, and the scheduler has not selected a node yet",
        );
    }
    if let Some(source) = &claim.source {
        return from_source(source);
    }
    let parsed =
        parsed.filter(|parsed| Arc::ptr_eq(&parsed.claim, claim) && Arc::ptr_eq(&parsed.class, class));
    match parsed.cloned().map_or_else(|| order(claim, class, backend, name), Ok) {
        Err(error) => error.into(),
        Ok(order) => {
            let order = Order { findings: cache.findings(&claim.class), ..order };
            let occupant = |share| {
                cache.occupancy.occupant(&order.location, order.request.name.as_str(), &claim.uid, share)
            };
            let other = occupant(false)
                .and_then(|other| if order.may_share() { occupant(true) } else { Some(other) });
            match other {
                None => Plan::Provision(Box::new(order)),
                Some(other) => {
                    let how = match other.relation {
                        Relation::Same => "is",
                        Relation::Above => "lies within",
                        Relation::Below => "contains",
                    };
                    Plan::Reject(Rejection {
                        why: format!(
                            "location {:?} for this claim {how} that of {}; nothing was created",
                            order.location.path(),
                            other.who
                        ),
                        again: Again::After(other.id),
                    })
                }
            }
        }
    }
}

/// What a claim and its class say together, before it is decided whether the volume may be made.
pub(in crate::provisioner) fn parse(claim: &Arc<Claim>, cache: &Cache, backends: &Backends) -> Option<Order> {
    let class = cache.class(&claim.class)?;
    let backend = backends.get(&class.provisioner)?;
    order(claim, class, backend, VolumeName::for_claim(&claim.uid).ok()?).ok()
}

fn no_class(name: &str) -> Plan {
    let (why, again) = if name.is_empty() {
        ("the claim names no storage class; set spec.storageClassName".to_owned(), Again::Later)
    } else {
        (format!("storage class {name:?} does not exist"), Again::NoClass)
    };
    Plan::Reject(Rejection { why, again })
}

/// A volume with content is never made empty instead: the claim is refused, or left to the controller that knows the source.
fn from_source(source: &DataSource) -> Plan {
    let group = source.api_group.as_deref().unwrap_or_default();
    let known = matches!(
        (group, source.kind.as_str()),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    let why = if source.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
        format!("a data source in another namespace ({} {:?}) is not supported", source.kind, source.name)
    } else if source.name.is_empty() {
        format!("the data source ({}) has no name", source.kind)
    } else if known {
        format!(
            "the data source {} {:?} is not supported: this provisioner cannot copy data; create the claim without a \
             data source, and copy the data with a Job",
            source.kind, source.name
        )
    } else {
        return Plan::LeaveToPopulator(format!(
            "waiting for a volume populator to fill the claim from {} {:?}",
            source.kind, source.name
        ));
    };
    Plan::Reject(Rejection { why, again: Again::OnChange })
}

/// Refuses what no backend provides.
fn check_supported(claim: &Claim, class: &Class) -> Result<(), Error> {
    if claim.selector {
        return Err(Error::new(
            Kind::Unsupported,
            "spec.selector is not supported: a new volume has no labels to select; create the claim again without it",
        ));
    }
    if let Some(name) = &claim.attributes_class {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "spec.volumeAttributesClassName {name:?} is not supported: volumes of {} have no attributes that \
                 such a class could set, and Kubernetes does not bind the claim without them; create the claim again \
                 without it",
                class.provisioner
            ),
        ));
    }
    if let Some(bytes) = claim.excess() {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "storage class {:?} builds the path from labels and annotations of the claim that are {bytes} bytes \
                 long; a path has at most {PATTERN_BYTES}",
                class.name
            ),
        ));
    }
    Ok(())
}

fn order(
    claim: &Arc<Claim>,
    class: &Arc<Class>,
    backend: &Arc<dyn Backend>,
    name: VolumeName,
) -> Result<Order, Error> {
    let capabilities = backend.capabilities();
    let mode = match claim.volume_mode.as_deref() {
        None | Some("Filesystem") => Mode::Filesystem,
        Some("Block") if capabilities.block => Mode::Block,
        Some("Block") => {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{} does not support block volume provisioning; set volumeMode: Filesystem",
                    class.provisioner
                ),
            ));
        }
        Some(other) => {
            return Err(Invalid::new("volume mode", other, "must be Filesystem or Block").into());
        }
    };
    check_supported(claim, class)?;
    let access = claim.access_modes.iter().map(|mode| mode.parse::<Access>()).collect::<Result<_, _>>()?;
    let Some(request) = &claim.request else {
        return Err(Error::new(Kind::Invalid, "the claim has no spec.resources.requests.storage"));
    };
    let capacity = request.parse::<Capacity>()?;
    let ProvisionOptions { disposal, retention, parameters, unknown } =
        class.provision_options(capabilities)?;
    let mut request = VolumeRequest {
        name,
        claim: claim.to_volume_claim(),
        capacity,
        access,
        mode,
        parameters,
        placement: None,
    };
    let placement = backend.place(&request)?;
    let location = LocationKey::new(capabilities.name, &placement.location);
    request.placement = Some(placement);
    Ok(Order {
        claim: Arc::clone(claim),
        class: Arc::clone(class),
        backend: Arc::clone(backend),
        location,
        request,
        disposal,
        retention,
        unknown,
        findings: Arc::default(),
    })
}

impl From<Error> for Plan {
    fn from(error: Error) -> Self {
        let again = match error.kind().retry() {
            Retry::OnChange => Again::OnChange,
            Retry::Backoff => Again::Later,
        };
        Self::Reject(Rejection { why: error.chain(), again })
    }
}

impl From<Invalid> for Plan {
    fn from(error: Invalid) -> Self {
        Error::from(error).into()
    }
}

#[cfg(test)]
mod tests;
