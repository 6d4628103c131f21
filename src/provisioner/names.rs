//! The keys and words that the parts of Kubernetes agree on, and our own.
//!
//! Only names; what they mean is decided where they are used.

/// Who shall provision a claim; set by kube-controller-manager.
pub(super) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, before Kubernetes 1.23. Looked at only where the other is absent.
pub(super) const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The class of a claim or volume in old manifests; wins over the field.
pub(super) const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The node that the scheduler chose for a claim of a class that waits for its first consumer.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who made a volume, and so who removes it.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who took a volume over from an in-tree plugin.
pub(super) const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// Keeps a `VolumeAttachment` in the API until its volume is detached: the finalizer of external-attacher for the same driver, so
/// that each can end what the other began.
pub(super) fn attachment_finalizer(driver: &str) -> String {
    format!("external-attacher/{}", driver.replace('.', "-"))
}
/// Keeps a volume in the API until it was removed from the storage.
pub(super) const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// The volume's id.
pub(super) const VOLUME_ID: &str = "berth.storage/volume-id";
/// What shall become of the bytes: `delete`, `archive` or `retain`.
pub(super) const ON_DELETE: &str = "berth.storage/on-delete";
/// Whether the bytes were there before: `created` or `adopted`.
pub(super) const ORIGIN: &str = "berth.storage/origin";
/// Where the volume lies below the root of its store.
pub(super) const PATH: &str = "berth.storage/path";
/// What the backend must be told again, as a JSON object of texts.
pub(super) const RECORD: &str = "berth.storage/record";
/// Set by an administrator who takes a volume over from another cluster, or whose owner the storage does not tell: the owner
/// that the refusal names.
pub(super) const TAKE_OVER: &str = "berth.storage/take-over";
/// How long what is deleted stays in the trash, as the class said when the volume was made.
pub(super) const TRASH_RETENTION: &str = "berth.storage/trash-retention";
/// The identity of the store when the volume was made.
pub(super) const STORE_ID: &str = "berth.storage/store-id";

/// On a claim whose CSI volume has grown: no node has a part in it. Without it kubelet asks every node that shares the volume.
pub(super) const NO_NODE_EXPANSION: &str = "volume.kubernetes.io/node-expansion-not-required";
/// On a CSI volume that has grown: what its claim had before, until a node has done its part.
pub(super) const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// How the in-tree plugins marked the volumes that they made, as against those that an administrator made by hand.
pub(super) const CREATED_BY: &str = "kubernetes.io/createdby";
/// What the in-tree plugin for RBD wrote there.
pub(super) const CREATED_BY_RBD: &str = "rbd-dynamic-provisioner";
/// The provisioners that were a part of Kubernetes.
pub(super) const IN_TREE: &str = "kubernetes.io/";
/// Keeps a volume of an in-tree provisioner in the API. Kubernetes takes it off when its own plugin has removed the volume.
pub(super) const IN_TREE_FINALIZER: &str = "kubernetes.io/pv-controller";
/// How rbd-provisioner and cephfs-provisioner told their own volumes from those of others with the same name.
pub(super) const IDENTITIES: [&str; 2] = ["rbdProvisionerIdentity", "cephFSProvisionerIdentity"];

/// Who looks after an object.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Us, there.
pub(super) const BERTH: &str = "berth";
/// The volume that a Secret was made for.
pub(super) const OWNER: &str = "berth.storage/volume";
