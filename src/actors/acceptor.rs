//! The client port: bound from the start, so that a conflict shows then, listened on only while this
//! server serves.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::actors::admission::{Admission, AdmissionBounds, Refusal};
use crate::actors::overload::Limit;
use crate::actors::session::{SessionConfig, SessionContext, serve};
use crate::io::client_tcp::{BoundPort, ClientSocket, PortError};

/// How long nothing is accepted when the system cannot give a connection (too many open files).
const REST: Duration = Duration::from_millis(100);

/// One address of the client port.
enum Gate {
    /// Ours; connections are refused.
    Bound(BoundPort),
    /// Accepting.
    Open(JoinHandle<()>),
    /// Lost while it was closed: somebody else took it.
    Lost,
}

/// The client port with its addresses.
pub struct Acceptor {
    gates: Vec<(SocketAddr, Gate)>,
    admission: Rc<Admission>,
    /// What a reload may change, for connections that come after it.
    session: Rc<RefCell<Arc<SessionConfig>>>,
}

impl Acceptor {
    /// Takes the ports.
    #[must_use]
    pub fn new(
        ports: Vec<BoundPort>,
        bounds: AdmissionBounds,
        session: Arc<SessionConfig>,
    ) -> Self {
        Self {
            gates: ports
                .into_iter()
                .map(|port| (port.address(), Gate::Bound(port)))
                .collect(),
            admission: Admission::new(bounds),
            session: Rc::new(RefCell::new(session)),
        }
    }

    /// Other bounds, for connections that come from now on.
    pub fn configure(&self, bounds: AdmissionBounds, session: Arc<SessionConfig>) {
        self.admission.set_bounds(bounds);
        *self.session.borrow_mut() = session;
    }

    /// Connections that stand.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.admission.connections()
    }

    /// Every connection that there may be is there.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.admission.is_full()
    }

    /// Begins to accept at every address.
    ///
    /// # Errors
    /// When an address was lost to another program. The others accept.
    pub fn open(&mut self, context: &SessionContext) -> Result<(), PortError> {
        let mut outcome = Ok(());
        for (address, gate) in &mut self.gates {
            let opened = match std::mem::replace(gate, Gate::Lost) {
                Gate::Bound(port) => port.listen(),
                Gate::Lost => BoundPort::bind(*address).and_then(BoundPort::listen),
                Gate::Open(task) => {
                    *gate = Gate::Open(task);
                    continue;
                }
            };
            match opened {
                Ok(listener) => {
                    tracing::info!(target: "twinmq::net", %address, "accepting connections at {address}");
                    let loop_ = accept(
                        listener,
                        context.clone(),
                        Rc::clone(&self.admission),
                        Rc::clone(&self.session),
                    );
                    *gate = Gate::Open(tokio::task::spawn_local(loop_));
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Accepts nothing more; the addresses stay ours.
    pub async fn close(&mut self) {
        for (address, gate) in &mut self.gates {
            if let Gate::Open(task) = gate {
                task.abort();
                // The listener is closed only when the task is really gone.
                if let Err(error) = task.await
                    && !error.is_cancelled()
                {
                    tracing::error!(target: "twinmq::net", %address, %error, "the accept loop died");
                }
                *gate = match BoundPort::bind(*address) {
                    Ok(port) => Gate::Bound(port),
                    Err(error) => {
                        tracing::warn!(target: "twinmq::net", %error, "will try again when serving");
                        Gate::Lost
                    }
                };
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    context: SessionContext,
    admission: Rc<Admission>,
    session: Rc<RefCell<Arc<SessionConfig>>>,
) {
    let overload = context.directory.overload();
    loop {
        // Who comes too fast waits in the system's queue.
        while let pause = admission.pause(context.clock.now())
            && !pause.is_zero()
        {
            overload.count(Limit::AcceptRate);
            tokio::time::sleep(pause).await;
        }
        match listener.accept().await {
            Ok((stream, from)) => {
                let socket = ClientSocket::new(stream);
                let admitted = match admission.admit(from.ip(), context.clock.now()) {
                    Ok(admitted) => admitted,
                    Err(refusal) => {
                        tracing::warn!(target: "twinmq::net", %from, "connection refused: {refusal}");
                        overload.count(refusal.limit());
                        refuse(socket, refusal);
                        continue;
                    }
                };
                let mut context = context.clone();
                context.config = Arc::clone(&session.borrow());
                tokio::task::spawn_local(async move {
                    serve(context, socket).await;
                    drop(admitted);
                });
            }
            Err(error) => {
                tracing::warn!(target: "twinmq::net", %error, "cannot accept a connection; raise the limit of open files if this goes on");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Says why and hangs up; whether the client hears it is its own affair.
fn refuse(mut socket: ClientSocket, refusal: Refusal) {
    let text =
        format!("ERROR\nmessage:too many connections\ncontent-type:text/plain\n\n{refusal}\n\0\n");
    let mut output = bytes::BytesMut::from(text.as_bytes());
    if socket.flush(&mut output).is_ok() {
        socket.finish();
    }
}
