//! The whole backend over programs that stand in for Ceph's.

mod argv;
mod changed_world;
mod crash;
pub(crate) mod fake;
mod real;
mod rescued;
mod secrets;

use super::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn it_behaves_on_a_stand_in_as_it_must() {
    conformance::run(fake::bench).await;
}
