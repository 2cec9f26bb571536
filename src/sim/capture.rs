//! What a run leaves in files: the engine's trace, and the packets of each host's interfaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwire_netsim::packet::View;
use meshwire_netsim::pcap;
use meshwire_netsim::scenario::Map;
use meshwire_netsim::simnet::EPOCH_MS;
use meshwire_netsim::{Event, Trace};

/// A host's interfaces: their addresses, and the file of each.
type Interfaces = Vec<(Vec<IpAddr>, pcap::Capture)>;

/// Writes files while an engine runs. Clones are the same files.
#[derive(Clone, Debug, Default)]
pub(super) struct Capture(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    trace: Option<BufWriter<File>>,
    hosts: BTreeMap<String, Interfaces>,
    /// The first thing that went wrong; nothing is written after it.
    error: Option<io::Error>,
}

impl Capture {
    /// Makes the files.
    pub(super) fn create(
        trace: Option<&Path>,
        pcap: Option<&Path>,
        map: &Map,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let mut files = Files::default();
        if let Some(path) = trace {
            let file = File::create(path).map_err(|e| (path.to_owned(), e))?;
            files.trace = Some(BufWriter::new(file));
        }
        if let Some(dir) = pcap {
            fs::create_dir_all(dir).map_err(|e| (dir.to_owned(), e))?;
            for (name, machine) in map.hosts() {
                for (n, (_, addresses)) in machine.interfaces.iter().enumerate() {
                    let path = dir.join(format!("{name}-eth{n}.pcap"));
                    let capture = pcap::Capture::create(&path).map_err(|e| (path, e))?;
                    let interfaces = files.hosts.entry(name.to_owned()).or_default();
                    interfaces.push((addresses.clone(), capture));
                }
            }
        }
        Ok(Self(Arc::new(Mutex::new(files))))
    }

    /// Whether there is anything to write.
    pub(super) fn is_idle(&self) -> bool {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.trace.is_none() && files.hosts.is_empty()
    }

    /// What the engine calls for each event.
    pub(super) fn hook(&self) -> impl FnMut(&Trace<'_>) + Send + 'static {
        let files = Arc::clone(&self.0);
        move |trace| {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            if files.error.is_none()
                && let Err(e) = files.write(trace)
            {
                files.error = Some(e);
            }
        }
    }

    /// Writes what is still in memory. Says what went wrong, now or before.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(e) = files.error.take() {
            return Err(e);
        }
        if let Some(trace) = &mut files.trace {
            trace.flush()?;
        }
        let mut captures = files.hosts.values_mut().flatten();
        captures.try_for_each(|(_, capture)| capture.flush())
    }
}

impl Files {
    fn write(&mut self, trace: &Trace<'_>) -> io::Result<()> {
        if let Some(out) = &mut self.trace {
            writeln!(out, "{trace}")?;
        }
        let sent = match trace.event {
            Event::Sent => true,
            Event::Delivered => false,
            _ => return Ok(()),
        };
        let Some(interfaces) = self.hosts.get_mut(trace.place) else { return Ok(()) };
        let Ok(view) = View::parse(trace.packet) else { return Ok(()) };
        let own = if sent { view.ip.source } else { view.ip.destination };
        // After a change of addresses the first interface stands for what none has.
        let found = interfaces.iter().position(|(addresses, _)| addresses.contains(&own));
        if let Some((_, capture)) = interfaces.get_mut(found.unwrap_or(0)) {
            let since = Duration::from_nanos(trace.at.as_nanos());
            capture.packet(Duration::from_millis(EPOCH_MS).saturating_add(since), trace.packet)?;
        }
        Ok(())
    }
}
