//! What every backend tells an administrator about whose a volume is: [`UNKNOWN_CLUSTER`], [`take_over`]; and [`quoted`] for the commands in it.
//!
//! How it is proved depends on what the storage keeps; each backend does that itself.

use crate::volume::VolumeName;

/// Why nothing can be proved, and what to do. Ends a sentence.
pub const UNKNOWN_CLUSTER: &str = "it is not known which cluster this is; let berth read the namespace kube-system (a rule of its \
     ClusterRole: apiGroups: [\"\"], resources: [namespaces], resourceNames: [kube-system], verbs: [get]), or set --cluster-id";

/// The command by which an administrator gives a PV the volume that is recorded as `owner`'s.
pub fn take_over(name: &VolumeName, owner: &str) -> String {
    format!("kubectl annotate --overwrite pv {name} berth.storage/take-over={}", quoted(owner))
}

/// A name or a path as one argument of a command that an administrator pastes into a shell. Claims' authors and the storage choose
/// such names.
pub fn quoted(argument: &str) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@' | ':' | ',' | '+' | '=')
    };
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    let shown: String = argument.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", shown.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_owner_that_is_no_name_cannot_leave_its_argument_in_a_shell() {
        let name: VolumeName = "pvc-1".parse().unwrap();
        assert_eq!(
            take_over(&name, "a-1.b_2"),
            "kubectl annotate --overwrite pv pvc-1 berth.storage/take-over=a-1.b_2"
        );
        for owner in [
            "",
            "a b",
            "a;touch x",
            "$(touch x)",
            "`touch x`",
            "a'; touch x; '",
            "'",
            "a\ntouch x",
            "\\",
            "\"",
        ] {
            let command = take_over(&name, owner).replacen("kubectl", "printf '%s|'", 1);
            let output = Command::new("/bin/sh").args(["-c", &command]).output().unwrap();
            let expected =
                format!("annotate|--overwrite|pv|pvc-1|berth.storage/take-over={}|", owner.replace('\n', ""));
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{owner:?}: {command}");
        }
    }
}
