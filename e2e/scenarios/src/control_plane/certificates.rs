//! Keys and certificates for one run of the API server: a certificate authority, a serving
//! certificate for loopback, a key pair for service-account tokens. All of them are thrown away
//! with the run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Files in the directory given to [`Certificates::write`].
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) service_account_key: PathBuf,
    pub(super) service_account_public_key: PathBuf,
}

impl Certificates {
    pub(super) fn write(dir: &Path) -> Result<Self> {
        let authority_key = KeyPair::generate().context("make the authority's key")?;
        let mut authority = CertificateParams::new(Vec::new()).context("describe the authority")?;
        authority.distinguished_name.push(DnType::CommonName, "berth e2e authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let authority_certificate =
            authority.self_signed(&authority_key).context("sign the authority's certificate")?;
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate().context("make the API server's key")?;
        let mut serving =
            CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into(), super::SERVICE.into()])
                .context("describe the API server's certificate")?;
        serving.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        serving.use_authority_key_identifier_extension = true;
        serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = serving.signed_by(&key, &issuer).context("sign the API server's certificate")?;

        let service_account = KeyPair::generate().context("make the service-account key")?;

        let file = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display())).map(|()| path)
        };
        Ok(Self {
            authority: file("ca.crt", authority_certificate.pem())?,
            certificate: file("apiserver.crt", certificate.pem())?,
            key: file("apiserver.key", key.serialize_pem())?,
            service_account_key: file("sa.key", service_account.serialize_pem())?,
            service_account_public_key: file("sa.pub", service_account.public_key_pem())?,
        })
    }
}
