use super::*;
use crate::net::OsNet;
use crate::quic::interfaces::FixedInterfaces;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

#[tokio::test(start_paused = true)]
async fn a_new_address_is_taken_at_once_while_servers_are_silent() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = Arc::from(OsNet.udp_bind(any).await.unwrap());
    let silent = OsNet.udp_bind(any).await.unwrap();
    let mux = Arc::new(Mux::new(Some(socket), None).unwrap());
    let interfaces = Arc::new(FixedInterfaces::new([ip(1)]));
    let (known, mut seen) = watch::channel(Gathered::default());
    let servers = Asked::from([(silent.local_addr().unwrap(), BTreeSet::from([None]))]);
    let (_servers, told) = watch::channel(servers);
    let wanted = Arc::new(Wanted::default());
    let listed = Arc::<FixedInterfaces>::clone(&interfaces);
    let (known, asks) = (Arc::new(known), Arc::clone(&wanted));
    let task =
        tokio::spawn(gather(Arc::new(OsNet), Arc::downgrade(&mux), listed, told, asks, known));
    wanted.begin(false);
    for n in 2..6 {
        // The server has been asked, and the answer is waited for.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        interfaces.set([ip(n)]);
        let has =
            |k: &Gathered| k.interfaces.iter().any(|i| i.addrs.iter().any(|addr| addr.ip == ip(n)));
        seen.wait_for(has).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    }
    task.abort();
}
