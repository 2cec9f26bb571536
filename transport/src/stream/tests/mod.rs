mod again;
mod chaos;
mod ends;
mod flow;
mod live;
mod paths;
mod sim;

use meshwire_signaling::stream::{Ends, Fresh, Secret};
use meshwire_signaling::{MeshId, PublicKey, StreamId};

/// The names of stream `n` in every test.
fn ends(n: u8) -> Ends {
    Ends {
        mesh: MeshId([1; 32]),
        stream: StreamId([n; 16]),
        opener: PublicKey([2; 32]),
        acceptor: PublicKey([3; 32]),
    }
}

const FRESH: Fresh = Fresh([9; 32]);

fn secret(n: u8) -> Secret {
    Secret::new([n; 32])
}
