//! Compiles `proto/` into Rust, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["csi.proto", "pluginregistration.proto"], ["proto"])?;
    // `Debug` of a message with this field is written by hand (`src/csi/wire.rs`): a derived one shows what is in it.
    let secret: Vec<String> = files
        .file
        .iter()
        .flat_map(|file| file.message_type.iter().map(move |message| (file.package(), message)))
        .filter(|(_, message)| message.field.iter().any(|field| field.name() == "secrets"))
        .map(|(package, message)| format!(".{package}.{}", message.name()))
        .collect();
    tonic_prost_build::configure()
        // Maps in a fixed order, as everywhere.
        .btree_map(".")
        .skip_debug(&secret)
        // Tests call by the name of the RPC.
        .build_client(false)
        .compile_fds(files)?;
    Ok(())
}
