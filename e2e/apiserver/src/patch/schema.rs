//! Which lists of the known kinds merge, and by what.
//!
//! Entry points: [`merge_key`] for strategic merge, [`list_keys`] for field ownership. Deliberately not here: lists
//! that are replaced as a whole, which is every list not named.

/// How the items of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// The list is one value.
    Atomic,
    /// Each item is its own name.
    Set,
    /// Items are named by these fields.
    Map(&'static [&'static str]),
}

/// The merge rule of a list for strategic merge; `parents` ends with the field that holds `field`.
pub(crate) fn merge_key(parents: &[String], field: &str) -> List {
    match list_keys(parents, field) {
        // Strategic merge knows one key only.
        List::Map(["containerPort", ..]) => List::Map(&["containerPort"]),
        List::Map(["port", ..]) => List::Map(&["port"]),
        List::Map(["topologyKey", ..]) => List::Map(&["topologyKey"]),
        other => other,
    }
}

/// The rule of a list for server-side apply.
pub(crate) fn list_keys(parents: &[String], field: &str) -> List {
    // Items of lists leave no element in `parents`: a container's parents end with `containers`.
    let parent = parents.last().map_or("", String::as_str);
    let in_container = matches!(parent, "containers" | "initContainers" | "ephemeralContainers");
    match (parent, field) {
        ("metadata", "finalizers") => List::Set,
        ("metadata", "ownerReferences") => List::Map(&["uid"]),
        ("status", "conditions" | "addresses") => List::Map(&["type"]),
        ("status", "podIPs" | "hostIPs") | ("spec", "hostAliases") => List::Map(&["ip"]),
        (
            "spec",
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "imagePullSecrets"
            | "drivers"
            | "schedulingGates"
            | "resourceClaims",
        )
        | ("", "imagePullSecrets" | "secrets") => List::Map(&["name"]),
        ("spec", "topologySpreadConstraints") => List::Map(&["topologyKey", "whenUnsatisfiable"]),
        ("spec", "ports") => List::Map(&["port", "protocol"]),
        (_, "env") if in_container => List::Map(&["name"]),
        (_, "ports") if in_container => List::Map(&["containerPort", "protocol"]),
        (_, "volumeMounts") if in_container => List::Map(&["mountPath"]),
        (_, "volumeDevices") if in_container => List::Map(&["devicePath"]),
        _ => List::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_that_merge_are_known_by_their_place() {
        for (parents, field, expected) in [
            (vec!["metadata"], "finalizers", List::Set),
            (vec!["spec"], "finalizers", List::Atomic),
            (vec!["spec", "template", "spec", "containers"], "env", List::Map(&["name"])),
            (vec!["spec"], "accessModes", List::Atomic),
            (vec!["status"], "conditions", List::Map(&["type"])),
            (vec!["subsets"], "addresses", List::Atomic),
            (vec!["spec"], "ports", List::Map(&["port"])),
        ] {
            let parents: Vec<String> = parents.into_iter().map(str::to_owned).collect();
            assert_eq!(merge_key(&parents, field), expected, "{parents:?} {field}");
        }
    }
}
