//! What carries a message.

use std::sync::Arc;

use meshwire_signaling::envelope::Channel;
use meshwire_signaling::frame::feature;
use meshwire_signaling::{PublicKey, Target};
use meshwire_transport::link::MessageLink as _;

use super::super::mesh::Mesh;
use super::{Carrier, DirectCarrier, State};
use crate::path::select::{Direct, Recipient};
use crate::path::{Choice, Event, Facts, Via, select_path};
use crate::store::OutboxMeta;

impl Mesh {
    /// What carries a message now; seeks a direct path where that is worth it.
    pub(in crate::node) fn carrier(self: &Arc<Self>, meta: &OutboxMeta) -> Carrier {
        let peer = match meta.target {
            Target::Member { key } => key,
            Target::Session { .. } | Target::Service { .. } => match meta.member {
                Some(member) => member,
                None => return self.relay_or_none(),
            },
            _ => return self.relay_or_none(),
        };
        if peer == self.row.self_key || self.paths.adapter.is_none() {
            return self.relay_or_none();
        }
        let mut state = self.paths.lock();
        let Some(pair) = state.pair(&self.row.self_key, &peer) else {
            return self.relay_or_none();
        };
        if pair.relay.contains(&(meta.author, meta.id)) && self.relay_up() {
            return Carrier::Relay { avoidable: true };
        }
        let choice = select_path(&self.facts(&peer, pair.machine.direct()));
        self.wish(&mut state, &peer, &choice);
        match choice.via {
            Via::Direct => match state.pairs.get(&peer).and_then(|p| p.live.as_ref()) {
                Some(live) => Carrier::Direct(DirectCarrier {
                    link: live.link.clone(),
                    alive: live.alive.subscribe(),
                }),
                None => self.relay_or_none(),
            },
            Via::Relay => Carrier::Relay { avoidable: choice.why.is_avoidable() },
            Via::Wait => Carrier::None,
        }
    }

    /// Something is said to a peer: its path is used, or sought where that is worth it.
    fn wish(self: &Arc<Self>, state: &mut State, peer: &PublicKey, choice: &Choice) {
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        if choice.negotiate {
            let todo = pair.machine.handle(self.moment(), Event::Wanted);
            self.act(state, peer, todo);
        } else if choice.via == Via::Direct {
            let todo = pair.machine.handle(self.moment(), Event::Traffic);
            debug_assert!(todo.is_empty());
        } else if pair.machine.direct() == Direct::BackingOff {
            let todo = pair.machine.handle(self.moment(), Event::Wanted);
            debug_assert!(todo.is_empty());
        }
    }

    /// A stream moves bytes to or from a peer, or is opened.
    pub(in crate::node) fn path_used(self: &Arc<Self>, peer: &PublicKey) {
        if *peer == self.row.self_key || self.paths.adapter.is_none() {
            return;
        }
        let mut state = self.paths.lock();
        let Some(pair) = state.pair(&self.row.self_key, peer) else { return };
        let facts = Facts { channel: Channel::Stream, ..self.facts(peer, pair.machine.direct()) };
        self.wish(&mut state, peer, &select_path(&facts));
    }

    /// The direct path to a peer, if one is up and heard.
    pub(in crate::node) fn direct(&self, peer: &PublicKey) -> Option<DirectCarrier> {
        let state = self.paths.lock();
        let live = state.pairs.get(peer)?.live.as_ref().filter(|l| !l.info.borrow().silent)?;
        Some(DirectCarrier { link: live.link.clone(), alive: live.alive.subscribe() })
    }

    fn relay_or_none(&self) -> Carrier {
        if self.relay_up() { Carrier::Relay { avoidable: false } } else { Carrier::None }
    }

    /// Whether the relay takes messages now.
    pub(in crate::node) fn relay_up(&self) -> bool {
        self.is_up() && self.link.is_up()
    }

    pub(super) fn facts(&self, peer: &PublicKey, direct: Direct) -> Facts {
        let recipient = match self.peer_view(peer) {
            None => Recipient::Unknown,
            Some(view) if view.online => Recipient::Online { direct: !view.indirect },
            Some(_) => Recipient::Offline,
        };
        Facts {
            channel: Channel::Dm,
            mode: self.paths.mode,
            ours: self.paths.adapter.is_some() && self.broker_has(feature::P2P) != Some(false),
            recipient,
            direct,
            relay: self.relay_up(),
        }
    }
}
