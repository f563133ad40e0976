//! TLS of the HA channel: version 1.3, both certificates checked against the pair's own authority.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name that both servers' certificates carry (as a DNS subject alternative name). The authority
/// signs no other server, so that hosts and addresses may change without new certificates.
pub const PEER_NAME: &str = "twinmq-peer";

/// PEM files, as `pair init` writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPaths {
    /// Certificates of the pair's authority.
    pub ca: PathBuf,
    /// This server's certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Both directions of the HA channel's TLS.
#[derive(Clone)]
pub struct PeerTls {
    pub(crate) connector: TlsConnector,
    pub(crate) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerTls(..)")
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or no PEM.
    #[error("{what} {} cannot be read: {cause}: write the files anew with `twinmq pair init`", path.display())]
    File {
        /// Which of the three.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// As the reader said.
        cause: pem::Error,
    },
    /// The authority's file holds no certificate.
    #[error("{} holds no certificate: write the files anew with `twinmq pair init`", .0.display())]
    NoAuthority(PathBuf),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("certificate {} and key {} cannot be used: {cause}", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// As rustls said.
        cause: String,
    },
}

/// Reads the three files.
///
/// # Errors
/// Which file is wrong, and how.
pub fn load(paths: &TlsPaths) -> Result<PeerTls, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates("authority", &paths.ca)? {
        roots.add(root).map_err(|cause| unusable(paths, &cause))?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoAuthority(paths.ca.clone()));
    }
    let chain = certificates("certificate", &paths.cert)?;
    let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(|cause| TlsError::File {
        what: "key",
        path: paths.key.clone(),
        cause,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots);
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|cause| unusable(paths, &cause))?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .map_err(|cause| unusable(paths, &cause))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|cause| unusable(paths, &cause))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|cause| unusable(paths, &cause))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|cause| unusable(paths, &cause))?;
    // Nobody resumes a session here.
    server.send_tls13_tickets = 0;
    Ok(PeerTls {
        connector: TlsConnector::from(Arc::new(client)),
        acceptor: TlsAcceptor::from(Arc::new(server)),
    })
}

/// [`PEER_NAME`] as rustls takes it.
pub(crate) fn peer_name() -> ServerName<'static> {
    ServerName::try_from(PEER_NAME).expect("a constant that is a DNS name")
}

/// A failed handshake, in words that say where to look.
pub(crate) fn handshake_error(cause: &io::Error) -> io::Error {
    io::Error::new(
        cause.kind(),
        format!("TLS handshake: {cause}: do both servers have certificates of one `pair init`?"),
    )
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| TlsError::File {
            what,
            path: path.to_owned(),
            cause,
        })
}

fn unusable(paths: &TlsPaths, cause: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unusable {
        cert: paths.cert.clone(),
        key: paths.key.clone(),
        cause: cause.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    /// Files of an authority and one certificate of it, in `folder`.
    pub(crate) fn make_files(folder: &Path, name: &str) -> TlsPaths {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        let write = |file: &str, text: String| {
            let path = folder.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsPaths {
            ca: write("ca.pem", ca.pem()),
            cert: write("cert.pem", cert.pem()),
            key: write("key.pem", key.serialize_pem()),
        }
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let paths = make_files(folder.path(), PEER_NAME);
        load(&paths).unwrap();
        let missing = TlsPaths {
            key: folder.path().join("none.pem"),
            ..paths.clone()
        };
        let message = load(&missing).unwrap_err().to_string();
        assert!(
            message.starts_with("key ") && message.contains("none.pem"),
            "{message}"
        );
        let empty = TlsPaths {
            ca: folder.path().join("empty.pem"),
            ..paths.clone()
        };
        std::fs::write(&empty.ca, "").unwrap();
        let message = load(&empty).unwrap_err().to_string();
        assert!(
            message.contains("empty.pem") && message.contains("certificate"),
            "{message}"
        );
        let other = tempfile::tempdir().unwrap();
        let crossed = TlsPaths {
            key: make_files(other.path(), PEER_NAME).key,
            ..paths
        };
        assert!(matches!(load(&crossed), Err(TlsError::Unusable { .. })));
    }
}
