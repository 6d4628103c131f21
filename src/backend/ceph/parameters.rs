//! The class parameters that RBD and `CephFS` share. They are read by [`Parameters`](super::class::Parameters).

use crate::backend::Parameter;

/// Which configured cluster.
pub const CLUSTER_ID: Parameter = Parameter {
    name: "clusterID",
    values: "the name of a configured cluster",
    default: "the cluster that monitors names",
    effect: "The cluster on which volumes are made. Its monitors may change without any PV being touched.",
};

/// Which cluster, by its monitors.
pub const MONITORS: Parameter = Parameter {
    name: "monitors",
    values: "addresses or host names, separated by commas",
    default: "those of clusterID",
    effect: "The monitors of the cluster, where it is not configured. One of a configured cluster means that cluster.",
};

/// The Secret of the user that makes volumes.
pub const ADMIN_SECRET_NAME: Parameter = Parameter {
    name: "adminSecretName",
    values: "the name of a Secret",
    default: "as the cluster is configured",
    effect: "The Secret with that user's key, under \"key\", or as its only value.",
};

/// Where that Secret is.
pub const ADMIN_SECRET_NAMESPACE: Parameter = Parameter {
    name: "adminSecretNamespace",
    values: "a namespace",
    default: "default; without adminSecretName as the cluster is configured",
    effect: "Where that Secret is.",
};

/// How PVs name volumes.
pub const PV_SOURCE: Parameter = Parameter {
    name: "pvSource",
    values: "csi, in-tree",
    default: "csi",
    effect: "What the PV says of the volume: for the node plugin of a CSI driver, or for the one that Kubernetes had \
             before 1.31.",
};

/// How long an archive is kept.
pub const ARCHIVE_EXPIRY: Parameter = Parameter {
    name: "archiveExpiry",
    values: "never, or 1m to 18300d, in s, m, h, d or w",
    default: "never",
    effect: "When an archived volume is deleted for good.",
};
