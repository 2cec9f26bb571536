//! Whether everything that a scenario speaks of is there, and its world takes what happens to it.

use std::collections::BTreeSet;

use super::Scenario;
use super::check::{Carrier, Check, EVERY};
use super::flaw::{Place, choices, tip};
use super::read::Source;
use super::timeline::{Action, Awaited, Step};
use super::world::check_names;
use crate::time::Time;

/// What `stop` and `start` call the broker.
const BROKER: &str = "broker";

impl Scenario {
    /// Puts what is wrong into the source's flaws.
    pub(super) fn check(&self, source: &Source<'_>) {
        let mut wrong = |place: &Place, text: String| source.flaw(place, text);
        let nodes = self.nodes.iter().map(|n| (n.name.as_str(), &n.place));
        check_names(nodes, &mut wrong);
        let ids = self.timeline.iter().filter_map(|s| Some((s.id.as_deref()?, &s.place)));
        check_names(ids, &mut wrong);
        self.check_roles(source);
        self.check_timeline(source);
        self.check_asserts(source);
        self.rehearse(source);
    }

    /// Builds the world and does to it what the timeline does.
    fn rehearse(&self, source: &Source<'_>) {
        let (mut map, mut engine) = match self.plan(self.seed) {
            Ok(plan) => (plan.map, plan.builder.build()),
            Err(flaw) => return source.flaws.borrow_mut().push(flaw),
        };
        for step in &self.timeline {
            let Action::World(disturbance) = &step.action else { continue };
            let done = map.changes(disturbance, &step.place).and_then(|changes| {
                changes.into_iter().try_for_each(|change| {
                    let done = engine.control(Time::ZERO, change);
                    done.map_err(|e| step.place.flaw(e.to_string()))
                })
            });
            if let Err(flaw) = done {
                source.flaws.borrow_mut().push(flaw);
            }
        }
        for assert in &self.asserts {
            if let Check::Bytes { of, .. } = &assert.check {
                let (name, known) = match of {
                    Carrier::Link(name) => (name, map.link(name).is_some()),
                    Carrier::Host(name) => (name, map.host(name).is_some()),
                };
                if !known {
                    let hosts: Vec<&str> = map.hosts().map(|(name, _)| name).collect();
                    self.unknown(source, &assert.place, "host or link", name, &hosts);
                }
            }
        }
    }

    fn unknown(&self, source: &Source<'_>, place: &Place, what: &str, name: &str, all: &[&str]) {
        let tip = tip(name, all.iter().copied());
        let all = choices(all.iter().copied());
        source.flaw(place, format!("there is no {what} {name:?}{tip}; there is {all}"));
    }

    fn names(&self) -> Vec<&str> {
        self.nodes.iter().map(|n| n.name.as_str()).collect()
    }

    fn check_node(&self, source: &Source<'_>, place: &Place, name: &str) {
        let names = self.names();
        if !names.contains(&name) {
            self.unknown(source, place, "node", name, &names);
        }
    }

    fn check_host(&self, source: &Source<'_>, place: &Place, name: &str) {
        let hosts: Vec<&str> = self.hosts.iter().map(|h| h.name.as_str()).collect();
        if !hosts.contains(&name) {
            self.unknown(source, place, "host", name, &hosts);
        }
    }

    fn check_roles(&self, source: &Source<'_>) {
        match (&self.broker, self.nodes.first()) {
            (None, Some(node)) => {
                source.flaw(&node.place, "nodes need a broker: add a line [broker]");
            }
            (Some(broker), _) => self.check_host(source, &broker.place, &broker.host),
            (None, None) => {}
        }
        for node in &self.nodes {
            self.check_host(source, &node.place, &node.host);
            if node.name == BROKER {
                source
                    .flaw(&node.place, "\"broker\" is the broker's name; call the node otherwise");
            }
        }
        for host in self.hosts.iter().filter(|h| h.interfaces.is_empty()) {
            source.flaw(&host.place, "a host needs an interface: give network and addresses");
        }
    }

    fn check_timeline(&self, source: &Source<'_>) {
        let mut background = BTreeSet::new();
        for step in &self.timeline {
            let place = &step.place;
            match &step.action {
                Action::Send(send) => {
                    self.check_node(source, place, &send.from);
                    self.check_node(source, place, &send.to);
                    if send.from == send.to {
                        source.flaw(place, "a node does not send to itself; name another one");
                    }
                }
                Action::Stop(who) | Action::Start(who) | Action::Restart(who) => {
                    let mut names = self.names();
                    names.extend(self.broker.as_ref().map(|_| BROKER));
                    if !names.contains(&who.as_str()) {
                        self.unknown(source, place, "node", who, &names);
                    }
                }
                Action::Exec(exec) => {
                    self.check_host(source, place, &exec.host);
                    if exec.background {
                        background.extend(step.id.as_deref());
                    }
                }
                Action::WaitFor(wait) => match &wait.what {
                    Awaited::Delivered { from, to } | Awaited::Path { from, to, .. } => {
                        self.check_node(source, place, from);
                        self.check_node(source, place, to);
                    }
                    Awaited::Connected(node) | Awaited::Disconnected(node) => {
                        self.check_node(source, place, node);
                    }
                    Awaited::Exit(id) if !background.contains(id.as_str()) => {
                        let all: Vec<&str> = background.iter().copied().collect();
                        self.unknown(source, place, "command in the background", id, &all);
                    }
                    Awaited::Exit(_) => {}
                },
                Action::World(_) => {}
            }
        }
    }

    fn check_asserts(&self, source: &Source<'_>) {
        let sends = |from: &str, to: &str| {
            let is = |a: &Action| matches!(a, Action::Send(s) if s.from == from && s.to == to);
            self.timeline.iter().any(|s| is(&s.action))
        };
        for assert in &self.asserts {
            let place = &assert.place;
            let after = match &assert.check {
                Check::Path(super::PathCheck { after, .. }) | Check::Connected { after, .. } => {
                    after.as_deref()
                }
                _ => None,
            };
            if let Some(id) = after {
                let ids: Vec<&str> = self.timeline.iter().filter_map(|s| s.id.as_deref()).collect();
                if !ids.contains(&id) {
                    self.unknown(source, place, "step with the id", id, &ids);
                }
            }
            match &assert.check {
                Check::Delivered(super::Delivered { from, to, .. })
                | Check::Path(super::PathCheck { from, to, .. }) => {
                    self.check_node(source, place, from);
                    self.check_node(source, place, to);
                    if !sends(from, to) {
                        let text = format!("the timeline sends nothing from {from:?} to {to:?}");
                        source.flaw(place, text);
                    }
                }
                Check::Connected { node, .. } if node == EVERY => {}
                Check::Connected { node, .. } => self.check_node(source, place, node),
                Check::Exit { exec, .. } => {
                    let is = |a: &Action| matches!(a, Action::Exec(_));
                    let steps = self.timeline.iter().filter(|s| is(&s.action));
                    let ids: Vec<&str> = steps.filter_map(|s| s.id.as_deref()).collect();
                    if !ids.contains(&exec.as_str()) {
                        self.unknown(source, place, "exec with the id", exec, &ids);
                    }
                }
                Check::Bytes { .. } | Check::Dropped { .. } => {}
            }
        }
    }

    /// The first step that runs a command, which only the lab can.
    #[must_use]
    pub fn lab_step(&self) -> Option<&Step> {
        self.timeline.iter().find(|s| matches!(s.action, Action::Exec(_)))
    }
}
