//! Proves that `proto/` says the same as the published files, and that no message shows a secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use super::v1;

/// The file of `proto/` with this name, compiled.
fn ours(name: &str) -> FileDescriptorProto {
    file(&protox::compile([name], [Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")]).unwrap(), name)
}

fn file(all: &FileDescriptorSet, name: &str) -> FileDescriptorProto {
    all.file.iter().find(|file| file.name() == name).unwrap().clone()
}

/// The directory of a Go module, downloaded where Go can; else why it cannot be had.
fn module(name: &str) -> Result<PathBuf, String> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", name])
        .current_dir("/")
        .env("GOFLAGS", "-mod=mod")
        .output()
        .map_err(|error| format!("go cannot be started: {error}"))?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("go mod download: {}", String::from_utf8_lossy(&output.stderr)))?;
    match told["Dir"].as_str() {
        Some(directory) => Ok(PathBuf::from(directory)),
        None => Err(format!("go mod download {name}: {}", told["Error"])),
    }
}

/// What of a message must be the same: number, type and label of each field, by its name.
fn fields(message: &DescriptorProto, package: &str) -> BTreeMap<String, String> {
    let own = format!(".{package}.");
    message
        .field
        .iter()
        .map(|field| {
            let one_of =
                field.oneof_index.map(|index| message.oneof_decl[usize::try_from(index).unwrap()].name());
            let kind = field.type_name().replacen(&own, "", 1);
            let told = (field.number(), field.r#type(), field.label(), kind, one_of, field.proto3_optional());
            (field.name().to_owned(), format!("{told:?}"))
        })
        .collect()
}

fn reserved(message: &DescriptorProto) -> BTreeSet<(i32, i32)> {
    message.reserved_range.iter().map(|range| (range.start(), range.end())).collect()
}

fn values(of: &EnumDescriptorProto) -> BTreeMap<&str, i32> {
    of.value.iter().map(|value| (value.name(), value.number())).collect()
}

fn compare_enums(ours: &[EnumDescriptorProto], theirs: &[EnumDescriptorProto], path: &str) {
    for own in ours {
        let other = theirs.iter().find(|other| other.name() == own.name());
        let other = other.unwrap_or_else(|| panic!("{path}{} is not there", own.name()));
        assert_eq!(values(own), values(other), "{path}{}", own.name());
    }
}

/// Every message of ours is there with the same fields.
fn compare_messages(ours: &[DescriptorProto], theirs: &[DescriptorProto], package: &str, path: &str) {
    for own in ours {
        let name = format!("{path}{}", own.name());
        let other = theirs.iter().find(|other| other.name() == own.name());
        let other = other.unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!(fields(own, package), fields(other, package), "{name}");
        assert_eq!(reserved(own), reserved(other), "{name}: reserved numbers");
        compare_enums(&own.enum_type, &other.enum_type, &format!("{name}."));
        compare_messages(&own.nested_type, &other.nested_type, package, &format!("{name}."));
    }
}

/// `complete`: our services have all RPCs.
fn compare(ours: &FileDescriptorProto, theirs: &FileDescriptorProto, complete: bool) {
    assert_eq!(ours.package(), theirs.package());
    let package = ours.package();
    compare_messages(&ours.message_type, &theirs.message_type, package, "");
    compare_enums(&ours.enum_type, &theirs.enum_type, "");
    for service in &ours.service {
        let other = theirs.service.iter().find(|other| other.name() == service.name()).unwrap();
        for method in &service.method {
            let same = other.method.iter().find(|other| other.name() == method.name()).unwrap();
            let told = |of: &prost_types::MethodDescriptorProto| {
                (
                    of.input_type().to_owned(),
                    of.output_type().to_owned(),
                    of.client_streaming(),
                    of.server_streaming(),
                )
            };
            assert_eq!(told(method), told(same), "{}", method.name());
        }
        assert!(!complete || service.method.len() == other.method.len(), "{} has more", service.name());
    }
}

#[test]
fn our_messages_are_those_of_the_specification() {
    match module("github.com/container-storage-interface/spec@v1.13.0") {
        Ok(directory) => {
            let theirs = file(&protox::compile(["csi.proto"], [&directory]).unwrap(), "csi.proto");
            let ours = ours("csi.proto");
            compare(&ours, &theirs, false);
            // What the specification marks as a secret is what we call one.
            let text = std::fs::read_to_string(directory.join("csi.proto")).unwrap();
            let plain: Vec<&str> =
                text.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
            let plain = plain.join(" ");
            let marked: BTreeSet<&str> = plain
                .split([';', '{', '}'])
                .filter(|statement| statement.contains("[(csi_secret)"))
                .filter_map(|statement| statement.split('=').next()?.split_whitespace().last())
                .collect();
            assert_eq!(marked, BTreeSet::from(["secrets"]));
        }
        Err(why) => eprintln!("skipped: our csi.proto beside the specification's: {why}"),
    }
}

#[test]
fn the_registration_is_that_of_kubelet() {
    match module("k8s.io/kubelet@v0.36.3") {
        Ok(directory) => {
            let path = directory.join("pkg/apis/pluginregistration/v1");
            let text = std::fs::read_to_string(path.join("api.proto")).unwrap();
            // Its options are about the Go code, and their definitions are elsewhere.
            let plain: String = text
                .lines()
                .filter(|line| !line.contains("gogoproto") && !line.contains("gogo.proto"))
                .flat_map(|line| [line, "\n"])
                .collect();
            let copy = tempfile::tempdir().unwrap();
            std::fs::write(copy.path().join("api.proto"), plain).unwrap();
            let theirs = file(&protox::compile(["api.proto"], [copy.path()]).unwrap(), "api.proto");
            compare(&ours("pluginregistration.proto"), &theirs, true);
        }
        Err(why) => eprintln!("skipped: our pluginregistration.proto beside kubelet's: {why}"),
    }
}

/// A request that was logged showed the keys of a storage system to everyone who reads logs.
#[test]
#[allow(clippy::field_reassign_with_default)] // A message with nothing but secrets has no other fields to fill.
fn no_message_shows_a_secret() {
    const PLANTED: &str = "hunter2";
    let secrets = BTreeMap::from([("userKey".to_owned(), PLANTED.to_owned())]);
    macro_rules! shown {
        ($($message:ident)*) => {
            BTreeMap::from([$({
                let mut message = v1::$message::default();
                message.secrets = secrets.clone();
                (stringify!($message).to_owned(), format!("{message:?} {message:#?}"))
            }),*])
        };
    }
    let shown = shown!(
        CreateVolumeRequest DeleteVolumeRequest ValidateVolumeCapabilitiesRequest ControllerExpandVolumeRequest
        NodeStageVolumeRequest NodePublishVolumeRequest NodeExpandVolumeRequest NodeGetStorageHealthRequest
    );
    for (message, shown) in &shown {
        assert!(shown.contains("userKey") && !shown.contains(PLANTED), "{message}: {shown}");
    }
    // A message that is added with secrets must be added here.
    let ours = ours("csi.proto");
    let secret =
        ours.message_type.iter().filter(|message| message.field.iter().any(|f| f.name() == "secrets"));
    let secret: BTreeSet<String> = secret.map(|message| message.name().to_owned()).collect();
    assert_eq!(shown.into_keys().collect::<BTreeSet<_>>(), secret);
}
