//! Why a request to the API server failed: [`Failure`], and what to do about it.

use std::{fmt, time::Duration};

use http::{Method, StatusCode};
use serde::Deserialize;

use crate::{observe::causes, provisioner::queue::Outcome};

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::provisioner) enum Cause {
    /// There was no answer, or one that does not tell whether the request was carried out.
    Unknown,
    /// Too many requests; nothing was done.
    Throttled,
    /// An object of that name is there already.
    Exists,
    /// The object changed, or is not the one that was meant.
    Conflict,
    /// There is no such object.
    NotFound,
    /// The right is missing.
    Forbidden,
    /// The server does not know who we are; nothing was done.
    Unauthorized,
    /// The server says that the request is wrong.
    Invalid,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provisioner) struct Failure {
    pub(in crate::provisioner) cause: Cause,
    /// How long the server asked us to wait.
    pub(super) after: Option<Duration>,
    pub(super) message: String,
}

impl Failure {
    /// When to try again.
    pub(in crate::provisioner) fn outcome(&self) -> Outcome {
        self.after.map_or(Outcome::Retry, Outcome::RetryAfter)
    }

    pub(in crate::provisioner) fn is_forbidden(&self) -> bool {
        self.cause == Cause::Forbidden
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The longest wait that a server can ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// What an answer that is no success means. `reason` is the server's word for it, `after` its `Retry-After` in seconds.
pub(super) fn classify(code: StatusCode, reason: &str, after: Option<u64>) -> (Cause, Option<Duration>) {
    let after = after.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
    match code {
        StatusCode::TOO_MANY_REQUESTS => (Cause::Throttled, Some(after.unwrap_or(Duration::from_secs(1)))),
        StatusCode::CONFLICT if reason == "AlreadyExists" => (Cause::Exists, None),
        StatusCode::CONFLICT => (Cause::Conflict, None),
        StatusCode::NOT_FOUND => (Cause::NotFound, None),
        StatusCode::FORBIDDEN => (Cause::Forbidden, None),
        StatusCode::UNAUTHORIZED => (Cause::Unauthorized, None),
        code if code.is_client_error() && code != StatusCode::REQUEST_TIMEOUT => (Cause::Invalid, None),
        _ => (Cause::Unknown, after),
    }
}

/// The part of a `Status` that is read.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) message: String,
    pub(super) reason: String,
    pub(super) details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) retry_after_seconds: Option<u64>,
}

pub(super) fn failed(cause: Cause, method: &Method, path: &str, error: &dyn fmt::Display) -> Failure {
    Failure { cause, after: None, message: format!("{method} {path}: {error}") }
}

/// That there is no such object is an answer.
pub(super) fn found<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.cause == Cause::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Why a request of the client library failed, as a sentence for an administrator: what the server said where it answered,
/// else why it was not reached.
pub(in crate::provisioner) fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => answer(status.code, &status.reason, &status.message),
        kube::Error::Service(cause) => causes(&**cause),
        other => causes(other),
    }
}

/// What an answer that is no success says.
pub(super) fn answer(code: u16, reason: &str, message: &str) -> String {
    match (code, message) {
        (401, _) => {
            "the API server does not accept the credentials of this process (401 Unauthorized)".to_owned()
        }
        (code, "") => format!("the API server answered {code} {reason}").trim_end().to_owned(),
        (_, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_the_request_was_carried_out_and_when_to_come_back() {
        type Row = (&'static str, u16, &'static str, Option<u64>, Cause, Option<Duration>);
        let seconds = Duration::from_secs;
        let table: &[Row] = &[
            (
                "too many requests, and when to come back",
                429,
                "TooManyRequests",
                Some(7),
                Cause::Throttled,
                Some(seconds(7)),
            ),
            ("too many requests without a time", 429, "", None, Cause::Throttled, Some(seconds(1))),
            ("an absurd time is cut", 429, "", Some(u64::MAX), Cause::Throttled, Some(seconds(300))),
            ("the name is taken", 409, "AlreadyExists", None, Cause::Exists, None),
            ("another version, or another UID", 409, "Conflict", None, Cause::Conflict, None),
            ("not there", 404, "NotFound", None, Cause::NotFound, None),
            ("no right", 403, "Forbidden", None, Cause::Forbidden, None),
            ("no identity", 401, "Unauthorized", None, Cause::Unauthorized, None),
            ("wrong", 422, "Invalid", None, Cause::Invalid, None),
            ("wrong in another way", 400, "BadRequest", None, Cause::Invalid, None),
            ("too large", 413, "RequestEntityTooLarge", None, Cause::Invalid, None),
            ("the client was too slow", 408, "", None, Cause::Unknown, None),
            ("a defect of the server", 500, "InternalError", None, Cause::Unknown, None),
            ("no leader in etcd", 503, "ServiceUnavailable", Some(2), Cause::Unknown, Some(seconds(2))),
            ("the server's own deadline", 504, "Timeout", None, Cause::Unknown, None),
            ("a proxy that answers strangely", 302, "", None, Cause::Unknown, None),
        ];
        for (name, code, reason, after, cause, wait) in table {
            let code = StatusCode::from_u16(*code).unwrap();
            assert_eq!(classify(code, reason, *after), (*cause, *wait), "{name}");
        }
    }

    #[test]
    fn a_refusal_is_reported_as_a_sentence() {
        let status = |code, reason: &str, message: &str| {
            let status = kube::core::Status {
                code,
                reason: reason.into(),
                message: message.into(),
                ..Default::default()
            };
            sentence(&kube::Error::Api(Box::new(status)))
        };
        let forbidden =
            "persistentvolumes is forbidden: User \"x\" cannot list resource \"persistentvolumes\"";
        assert_eq!(status(403, "Forbidden", forbidden), forbidden);
        assert_eq!(
            status(401, "Unauthorized", "Unauthorized"),
            "the API server does not accept the credentials of this process (401 Unauthorized)"
        );
        assert_eq!(status(503, "ServiceUnavailable", ""), "the API server answered 503 ServiceUnavailable");
        let unreached = kube::Error::Service(Box::new(std::io::Error::other("connection refused")));
        assert_eq!(sentence(&unreached), "connection refused");
    }

    #[test]
    fn a_failure_comes_back_when_the_server_says_so_or_at_the_usual_pace() {
        let failure = |after| Failure { cause: Cause::Unknown, after, message: String::new() };
        assert_eq!(failure(None).outcome(), Outcome::Retry);
        let wait = Duration::from_secs(3);
        assert_eq!(failure(Some(wait)).outcome(), Outcome::RetryAfter(wait));
    }
}
