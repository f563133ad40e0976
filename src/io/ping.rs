//! Is there anything on the network? Connects by TCP to each target; a host that refuses is there as
//! well (H35).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::time::Clock;

/// Of the addresses that a name has, so many are tried.
const ADDRESSES_MAX: usize = 4;

/// One round of probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Comes back with the answer.
    pub probe_id: u64,
    /// `host:port` each, probed at the same time.
    pub targets: Vec<String>,
    /// For the connects of the whole round; names that hang are not bounded by it.
    pub timeout: Duration,
}

/// What a round gave: the first target that was reached, or for each why not.
pub type ProbeResult = Result<String, String>;

/// Takes each answer, with the id of its request. Called on the `ping-io` thread.
pub type ProbeSink = Arc<dyn Fn(u64, ProbeResult) + Send + Sync>;

/// The handle to the `ping-io` thread, which ends when it is dropped.
#[derive(Clone, Debug)]
pub struct Prober {
    requests: Sender<ProbeRequest>,
}

impl Prober {
    /// Queues a round; the answer goes to the sink.
    ///
    /// # Panics
    /// If the thread has panicked.
    pub fn request(&self, request: ProbeRequest) {
        self.requests
            .send(request)
            .expect("the ping-io thread lives as long as its handle");
    }
}

/// Starts the `ping-io` thread.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn_prober(clock: Arc<dyn Clock>, sink: ProbeSink) -> io::Result<Prober> {
    let (requests, inbox) = channel::<ProbeRequest>();
    std::thread::Builder::new()
        .name("ping-io".to_owned())
        .spawn(move || {
            while let Ok(request) = inbox.recv() {
                let result = probe(&*clock, &request);
                sink(request.probe_id, result);
            }
        })?;
    Ok(Prober { requests })
}

/// A connect under way.
struct Attempt<'a> {
    target: &'a str,
    socket: Socket,
}

/// What one connect has come to.
enum Step {
    Reached,
    UnderWay,
    Failed(io::Error),
}

fn probe(clock: &dyn Clock, request: &ProbeRequest) -> ProbeResult {
    let mut reasons = Vec::new();
    let mut attempts = Vec::new();
    for target in &request.targets {
        let addresses = match target.to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(cause) => {
                reasons.push(format!("{target}: {cause}"));
                continue;
            }
        };
        for address in addresses.take(ADDRESSES_MAX) {
            let started = connect(address);
            match started {
                Ok((socket, Step::UnderWay)) => attempts.push(Attempt { target, socket }),
                Ok((_, Step::Reached)) => return Ok(target.clone()),
                Ok((_, Step::Failed(cause))) | Err(cause) => {
                    reasons.push(format!("{target}: {cause}"));
                }
            }
        }
    }
    await_any(clock, attempts, request.timeout, &mut reasons).ok_or_else(|| reasons.join(", "))
}

fn connect(address: SocketAddr) -> io::Result<(Socket, Step)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let step = match socket.connect(&address.into()) {
        Ok(()) => Step::Reached,
        Err(cause) if cause.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Step::UnderWay,
        Err(cause) => judge(cause),
    };
    Ok((socket, step))
}

/// Whoever refuses or resets a connection is there.
fn judge(cause: io::Error) -> Step {
    match cause.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Step::Reached,
        _ => Step::Failed(cause),
    }
}

fn await_any(
    clock: &dyn Clock,
    mut attempts: Vec<Attempt<'_>>,
    timeout: Duration,
    reasons: &mut Vec<String>,
) -> Option<String> {
    let deadline = clock.now().after(timeout);
    while !attempts.is_empty() {
        let left = deadline.since(clock.now());
        if left.is_zero() {
            break;
        }
        let mut polled: Vec<_> = attempts
            .iter()
            .map(|attempt| PollFd::new(attempt.socket.as_fd(), PollFlags::POLLOUT))
            .collect();
        match poll(&mut polled, poll_timeout(left)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                reasons.push(errno.to_string());
                return None;
            }
        }
        let ready: Vec<bool> = polled.iter().map(|it| it.any().unwrap_or(false)).collect();
        let mut waiting = Vec::new();
        for (attempt, ready) in attempts.into_iter().zip(ready) {
            if !ready {
                waiting.push(attempt);
                continue;
            }
            let step = match attempt.socket.take_error() {
                Ok(None) => Step::Reached,
                Ok(Some(cause)) | Err(cause) => judge(cause),
            };
            match step {
                Step::Reached => return Some(attempt.target.to_owned()),
                Step::UnderWay => waiting.push(attempt),
                Step::Failed(cause) => reasons.push(format!("{}: {cause}", attempt.target)),
            }
        }
        attempts = waiting;
    }
    let millis = timeout.as_millis();
    let silent = attempts
        .iter()
        .map(|attempt| format!("{}: no answer within {millis} ms", attempt.target));
    reasons.extend(silent);
    None
}

/// Rounded up, so that a rest of a millisecond does not spin.
fn poll_timeout(left: Duration) -> PollTimeout {
    let millis = left.as_millis().saturating_add(1);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::time::SystemClock;

    fn ask(targets: &[String], timeout: Duration) -> ProbeResult {
        let (sender, answers) = channel();
        let sink: ProbeSink = Arc::new(move |id, result| sender.send((id, result)).unwrap());
        let prober = spawn_prober(Arc::new(SystemClock), sink).unwrap();
        prober.request(ProbeRequest {
            probe_id: 5,
            targets: targets.to_vec(),
            timeout,
        });
        let (id, result) = answers.recv().unwrap();
        assert_eq!(id, 5);
        result
    }

    #[test]
    fn a_listener_and_a_refusal_both_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let second = Duration::from_secs(10);
        assert_eq!(
            ask(std::slice::from_ref(&address), second),
            Ok(address.clone())
        );
        drop(listener);
        assert_eq!(ask(std::slice::from_ref(&address), second), Ok(address));
    }

    #[test]
    fn nothing_reached_says_why_for_each_and_one_answer_is_enough() {
        let result = ask(&["no port".to_owned()], Duration::from_secs(10));
        assert!(
            result.clone().is_err_and(|it| it.starts_with("no port: ")),
            "{result:?}"
        );
        // A full backlog: the third connect is neither taken nor refused.
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent
            .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap().as_socket().unwrap();
        let _fill: Vec<_> = (0..3).map(|_| connect(address).unwrap()).collect();
        let target = address.to_string();
        assert_eq!(
            ask(std::slice::from_ref(&target), Duration::from_millis(50)),
            Err(format!("{target}: no answer within 50 ms"))
        );
        let refuses = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        assert_eq!(
            ask(&[target, refuses.clone()], Duration::from_secs(10)),
            Ok(refuses)
        );
        assert_eq!(ask(&[], Duration::from_secs(10)), Err(String::new()));
    }
}
