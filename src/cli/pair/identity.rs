//! The pair's own certificate authority, and a certificate for each server.
//!
//! The certificates do not expire: nobody but the two servers trusts this authority, and a pair that
//! falls apart on a date is worse than one whose certificates are made anew when someone decides so.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use super::PairError;

/// The pair's authority.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    cluster: String,
}

/// A server's certificate and private key, PEM.
pub(super) struct ServerCertificate {
    pub(super) cert: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(cluster: &str) -> Result<Self, PairError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("TwinMQ pair {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(PairError::Certificate)?;
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, key).map_err(PairError::Certificate)?,
            cluster: cluster.to_owned(),
        })
    }

    /// A certificate for the host as its peer calls it, and for the role's name.
    pub(super) fn certify(&self, role: &str, host: &str) -> Result<ServerCertificate, PairError> {
        // The peer is known by its certificate, not by where it is dialled.
        let names = vec![
            host.to_owned(),
            role.to_owned(),
            crate::io::tls::PEER_NAME.to_owned(),
        ];
        let mut params = CertificateParams::new(names).map_err(PairError::Certificate)?;
        params.distinguished_name = named(&format!("{role} of TwinMQ pair {}", self.cluster));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(PairError::Certificate)?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(PairError::Certificate)?;
        Ok(ServerCertificate {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
