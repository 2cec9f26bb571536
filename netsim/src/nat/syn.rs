//! SYNs that nobody asked for and that are answered only after a while (RFC 5382, REQ-4): until then the
//! inside may open the same connection from its end.

use std::collections::VecDeque;

use super::table::Endpoint;
use crate::packet::{IcmpError, icmp_error};
use crate::time::Time;

/// SYNs that wait for their answer; more are not answered at all.
const MAX_PENDING: usize = 1024;

#[derive(Clone, Debug)]
struct Pending {
    at: Time,
    external: Endpoint,
    remote: Endpoint,
    syn: Vec<u8>,
}

/// The SYNs that wait, in order of their answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsolicited(VecDeque<Pending>);

impl Unsolicited {
    /// A SYN came, to be answered at `at`. One that is sent again does not wait anew.
    pub(super) fn came(&mut self, at: Time, external: Endpoint, remote: Endpoint, syn: &[u8]) {
        let again = self.0.iter().any(|p| (p.external, p.remote) == (external, remote));
        if !again && self.0.len() < MAX_PENDING {
            self.0.push_back(Pending { at, external, remote, syn: syn.to_vec() });
        }
    }

    /// The inside opens this connection too: the SYN that came first is forgotten.
    pub(super) fn opened(&mut self, external: Endpoint, remote: Endpoint) {
        self.0.retain(|p| (p.external, p.remote) != (external, remote));
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.front().map(|p| p.at)
    }

    /// The answer of a SYN that is due; the inner None where none may be sent.
    pub(super) fn due(&mut self, now: Time) -> Option<Option<Vec<u8>>> {
        if self.next_deadline().is_none_or(|at| at > now) {
            return None;
        }
        let Pending { external, syn, .. } = self.0.pop_front()?;
        Some(icmp_error(external.0.into(), IcmpError::PortUnreachable, &syn))
    }
}
