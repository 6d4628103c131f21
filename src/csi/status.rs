//! Failures as gRPC statuses. A final code says that nothing may still appear: kubelet removes the directories after it.

use tonic::{Code, Status};

use crate::{
    backend::{Error, Kind},
    system::{mount::MountError, pool::PoolError},
};

/// The gRPC code of a failure.
pub(super) fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unsupported | Kind::InUse | Kind::Refused => Code::FailedPrecondition,
        Kind::Conflict => Code::AlreadyExists,
        Kind::NotFound => Code::NotFound,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Busy => Code::Aborted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Internal => Code::Internal,
    }
}

/// A failure of a backend, with what was tried.
pub(super) fn of(what: &str, error: &Error) -> Status {
    Status::new(code(error.kind()), format!("{what}: {}", error.chain()))
}

/// A mount that failed, with what was tried. What the system refuses now it may do later.
pub(super) fn of_mount(what: &str, error: &MountError) -> Status {
    let told = format!("{what}: {}", chain(error));
    match error {
        MountError::Refused { .. } => Status::failed_precondition(told),
        MountError::Io { .. } => Status::internal(told),
    }
}

/// Work that gave no result. It may still have its effect.
pub(super) fn of_lost(what: &str, lost: &PoolError) -> Status {
    match lost {
        PoolError::Late { .. } => Status::deadline_exceeded(format!("{what}: {lost}")),
        PoolError::Saturated { .. } => Status::unavailable(format!("{what}: {lost}")),
        PoolError::Panicked { .. } => Status::internal(format!("{what}: {lost}")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_appear_is_never_final() {
        // What kubelet takes as "perhaps later" (Kubernetes 1.37).
        let open = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Aborted,
        ];
        let kinds = [
            Kind::Invalid,
            Kind::Unsupported,
            Kind::Conflict,
            Kind::NotFound,
            Kind::Exhausted,
            Kind::InUse,
            Kind::Refused,
            Kind::Busy,
            Kind::Unavailable,
            Kind::Internal,
        ];
        for kind in kinds {
            assert!(!kind.may_still_happen() || open.contains(&code(kind)), "{kind}");
        }
    }
}
