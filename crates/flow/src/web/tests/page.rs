//! The page as a person uses it. Pictures of it are left in `target/ui`.
use std::time::{Duration, Instant};

use api::hubble::observer::GetFlowsRequest;
use serde_json::json;

use super::browser::Page;
use super::world::World;
use super::{Limits, Manner, Recorded};

/// The texts of all rows of the table that are drawn.
const ROWS: &str = "[...document.querySelectorAll('.height .row')].map((row) => row.innerText)";

fn large() -> Recorded {
    let world = World::large();
    let recorded = world.round() * 3;
    Recorded::new(world, Manner::Lively { recorded })
}

/// Nothing went wrong in the page, and it asked nobody else.
fn check(page: &Page, at: std::net::SocketAddr) {
    assert_eq!(page.complaints, Vec::<String>::new());
    let own = format!("http://{at}/");
    for request in &page.requests {
        assert!(request.starts_with(&own), "{request}");
    }
    assert!(page.requests.len() > 4, "{:?}", page.requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_workloads_can_be_read() {
    let relay = large();
    let (at, _stop) = relay.serve(Limits::default()).await;
    let Some(mut page) = Page::open(at).await else {
        return;
    };
    // At first namespaces alone, with how many workloads each has.
    page.until("document.querySelectorAll('.map .ns.closed').length === 25")
        .await;
    page.until("[...document.querySelectorAll('.map .ns .count')].filter((count) => count.textContent.startsWith('20 workloads')).length === 25").await;
    page.until("document.querySelectorAll('.map .arrow.bad, .map .arrow.mixed').length > 5")
        .await;
    page.shot("namespaces-light").await;
    page.dark(true).await;
    page.shot("namespaces-dark").await;
    page.dark(false).await;
    // All of them at once.
    page.keys(&["e"]).await;
    page.until("document.querySelectorAll('.map .card').length === 500")
        .await;
    assert_eq!(
        page.eval(OVERLAPS).await,
        json!([]),
        "cards lie upon each other"
    );
    page.shot("workloads-light").await;
    // One that is picked is shown with those that it talks to.
    page.eval("document.querySelector('[data-node=\"shop/api\"]').dispatchEvent(new MouseEvent('click', {bubbles: true}))").await;
    page.until("document.querySelector('.detail h2')?.textContent === 'api'")
        .await;
    page.until("document.querySelectorAll('.map .card.faint').length > 450")
        .await;
    page.until("document.querySelectorAll('.map .arrow.lit').length >= 10")
        .await;
    page.shot("one-of-many").await;
    page.keys(&["Escape", "c"]).await;
    page.until("document.querySelectorAll('.map .card').length === 0")
        .await;
    // The table draws what can be seen.
    page.keys(&["g", "f"]).await;
    page.until("+document.querySelector('.rows').ariaRowCount > 3000")
        .await;
    assert!(page.eval(&format!("{ROWS}.length")).await.as_u64() < Some(80));
    page.shot("flows").await;
    check(&page, at);
}

/// Cards whose middle lies in another card.
const OVERLAPS: &str = "(() => { const cards = [...document.querySelectorAll('.map .card .face')].map((card) => card.getBoundingClientRect()); \
    return cards.filter((one, at) => cards.some((other, place) => place !== at && Math.abs(one.x - other.x) < one.width && Math.abs(one.y - other.y) < one.height)).length ? [cards.length] : []; })()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_by_keyboard() {
    let relay = large();
    let (at, _stop) = relay.serve(Limits::default()).await;
    let Some(mut page) = Page::open(at).await else {
        return;
    };
    page.until("document.querySelectorAll('.map .ns').length === 25")
        .await;
    page.keys(&["/"]).await;
    page.until("document.activeElement.id === 'filter'").await;
    page.write("ns:shop").await;
    page.until(&format!(
        "{ROWS}.length > 5 && {ROWS}.every((row) => row.includes('shop/'))"
    ))
    .await;
    // The relay does what it can of it.
    asked(&relay, |one| {
        one.follow && one.whitelist.iter().any(|one| one.source_pod == ["shop/"])
    })
    .await;
    page.until("location.hash === '#map?q=ns%3Ashop'").await;
    page.until("document.querySelectorAll('.map .card').length >= 20")
        .await;
    page.shot("filtered").await;
    page.write(" verdict:dropped port:443").await;
    page.until(&format!("{ROWS}.length === 0")).await;
    for (filter, holds) in [
        ("verdict:dropped", "row.includes('dropped')"),
        ("port:5432 proto:tcp", "row.includes('5432/TCP')"),
        ("proto:udp -ns:kube-system", "false"),
        (
            "pod:fraud/worker",
            "row.includes('fraud/') && row.includes('worker')",
        ),
        ("policy:no-exports", "row.includes('no-exports')"),
        ("ledger postgres-0", "row.includes('postgres-0')"),
        ("node:worker-2", "row.includes('worker-2')"),
    ] {
        page.keys(&["Escape", "/"]).await;
        page.write(filter).await;
        let expression = if holds == "false" {
            format!("{ROWS}.length === 0")
        } else {
            format!("{ROWS}.length > 0 && {ROWS}.every((row) => {holds})")
        };
        page.until(&expression).await;
    }
    // By the menu: what is ticked stands in the line.
    page.eval("document.querySelector('.clear').click()").await;
    page.until(&format!("{ROWS}.length > 10")).await;
    page.eval("[...document.querySelectorAll('.menu label')].find((label) => label.innerText.includes('dropped') || label.textContent.includes('dropped')).querySelector('input').click()").await;
    page.until(&format!(
        "document.querySelector('#filter').value === 'verdict:dropped' && {ROWS}.length > 0 && {ROWS}.every((row) => row.includes('dropped'))"
    ))
    .await;
    asked(&relay, |one| {
        one.whitelist.iter().any(|one| one.verdict == [2])
    })
    .await;
    page.keys(&["Escape", "/"]).await;
    page.write("-proto:udp").await;
    asked(&relay, |one| {
        one.blacklist.iter().any(|one| one.protocol == ["udp"])
    })
    .await;
    check(&page, at);
}

/// Waits until the relay was asked in this way.
async fn asked(relay: &Recorded, wanted: impl Fn(&GetFlowsRequest) -> bool) {
    let start = Instant::now();
    while !relay.asked.lock().unwrap().iter().any(&wanted) {
        assert!(start.elapsed().as_secs() < 60, "{:?}", relay.asked);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_is_told_with_the_policy_that_decided_it() {
    let world = World::shop();
    let relay = Recorded::new(world, Manner::Lively { recorded: 1500 });
    let (at, _stop) = relay.serve(Limits::default()).await;
    let Some(mut page) = Page::open(at).await else {
        return;
    };
    page.until("document.querySelectorAll('.map .card').length === 11 && document.querySelectorAll('.map .round').length === 2")
        .await;
    page.until("document.querySelectorAll('.map .arrow.bad').length === 2")
        .await;
    page.shot("shop-light").await;
    page.dark(true).await;
    page.shot("shop-dark").await;
    page.dark(false).await;
    // By keyboard to the newest that a rule denied.
    page.keys(&["/"]).await;
    page.write("policy:only-checkout-pays").await;
    page.until(&format!("{ROWS}.length > 3")).await;
    page.keys(&["Escape", "j"]).await;
    page.until("document.querySelectorAll('.row.picked[aria-selected=true]').length === 1")
        .await;
    let decided = "(document.querySelector('.detail .decided')?.innerText ?? '')";
    page.until(&format!("{decided}.includes('denied ingress') && {decided}.includes('payments/only-checkout-pays') && {decided}.includes('CiliumNetworkPolicy')"))
        .await;
    page.until(
        "document.querySelector('.detail .fields').textContent.includes('ingress_denied_by')",
    )
    .await;
    page.keys(&["Enter"]).await;
    page.until("document.activeElement.classList.contains('detail')")
        .await;
    page.shot("denied").await;
    // The policy's object, beside the flows that it decided.
    page.eval("document.querySelector('.detail .decided').click()")
        .await;
    let object = "(document.querySelector('.detail .manifest')?.innerText ?? '')";
    page.until(&format!("{object}.includes('kind: CiliumNetworkPolicy') && {object}.includes('app: checkout') && {ROWS}.length > 0"))
        .await;
    page.shot("policy-light").await;
    page.keys(&["Escape", "j"]).await;
    page.until("document.querySelectorAll('.row.picked').length === 1")
        .await;
    let first = page.eval("document.querySelector('.row.picked').id").await;
    // A picked one stays where it is, which need not be the first row: flows come meanwhile.
    let index = "+document.querySelector('.row.picked')?.getAttribute('aria-rowindex')";
    let place = page.eval(index).await;
    page.keys(&["j", "j", "k"]).await;
    page.until(&format!("{index} === {place} + 1")).await;
    assert_ne!(
        first,
        page.eval("document.querySelector('.row.picked').id").await
    );
    page.keys(&["Escape"]).await;
    page.until("!document.querySelector('.detail')").await;
    // What nothing allows says so.
    page.eval("document.querySelector('.clear').click()").await;
    page.keys(&["Escape", "/"]).await;
    page.write("workload:redis verdict:dropped").await;
    page.until(&format!(
        "{ROWS}.length > 0 && {ROWS}.every((row) => row.includes('reviews') && row.includes('Policy denied'))"
    ))
    .await;
    page.keys(&["Escape", "j"]).await;
    page.until("document.querySelector('.detail')?.innerText.includes('No policy allows it')")
        .await;
    // Which policies decided what.
    page.eval("document.querySelector('.clear').click()").await;
    page.keys(&["Escape", "Escape", "g", "p"]).await;
    page.until("[...document.querySelectorAll('.policies tbody th')].some((one) => one.innerText.includes('payments/only-checkout-pays'))")
        .await;
    page.until("document.querySelectorAll('.policies tbody tr').length === 6")
        .await;
    page.shot("policies").await;
    page.dark(true).await;
    page.shot("policies-dark").await;
    let open = |name: &str| {
        format!(
            "[...document.querySelectorAll('.policies tbody th')].find((one) => one.innerText.includes('{name}')).querySelector('button').click()"
        )
    };
    page.eval(&open("payments/ledger")).await;
    page.until(
        "document.querySelector('.detail .trouble')?.innerText.includes('no such policy any more')",
    )
    .await;
    page.eval(&open("only-checkout-pays")).await;
    page.until(&format!("{object}.includes('app: payments')"))
        .await;
    page.shot("policy-dark").await;
    page.eval("document.querySelector('.detail .actions button').click()")
        .await;
    page.until(&format!("location.hash.startsWith('#flows') && location.hash.includes('only-checkout-pays') && {ROWS}.length > 0 && {object} !== ''"))
        .await;
    // The browser says of itself that one policy was not there.
    page.complaints.retain(|one| !one.contains("404"));
    check(&page, at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_lives_pauses_and_turns_dark() {
    let relay = Recorded::new(World::shop(), Manner::Lively { recorded: 300 });
    let (at, stop) = relay.serve(Limits::default()).await;
    let Some(mut page) = Page::open(at).await else {
        return;
    };
    let newest = "document.querySelector('.height .row')?.id";
    page.until("document.querySelectorAll('.height .row').length > 5")
        .await;
    let seen = page.eval(newest).await;
    page.until(&format!("{newest} !== {seen}")).await;
    page.until("document.querySelector('.health.ok')?.innerText === '3 nodes · 70/s'")
        .await;
    page.keys(&["p"]).await;
    page.until("document.querySelector('.pause').innerText.startsWith('Go on ·')")
        .await;
    let seen = page.eval(newest).await;
    page.until("Number(document.querySelector('.pause').innerText.split('·')[1]) > 20")
        .await;
    assert_eq!(seen, page.eval(newest).await, "a pause is a pause");
    page.keys(&["p"]).await;
    page.until(&format!("{newest} !== {seen}")).await;
    // Who looks at older ones is not disturbed.
    page.eval("document.querySelector('.rows').scrollTop = 640")
        .await;
    page.until("document.querySelector('.resume')?.innerText.endsWith('new')")
        .await;
    page.eval("document.querySelector('.resume').click()").await;
    page.until(
        "document.querySelector('.rows').scrollTop === 0 && !document.querySelector('.resume')",
    )
    .await;
    // Help, and colours.
    page.keys(&["?"]).await;
    page.until("document.querySelector('dialog').open && document.querySelectorAll('dialog dt').length > 10")
        .await;
    page.shot("help").await;
    page.keys(&["Escape"]).await;
    page.until("!document.querySelector('dialog')").await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    assert_eq!(page.eval(ground).await, "rgb(245, 246, 248)");
    page.dark(true).await;
    page.until(&format!("{ground} === 'rgb(11, 14, 19)'")).await;
    page.keys(&["d"]).await;
    page.until(&format!("{ground} === 'rgb(245, 246, 248)'"))
        .await;
    assert_eq!(
        page.eval("localStorage.getItem('hypha.theme')").await,
        "light"
    );
    page.keys(&["d"]).await;
    page.until(&format!("{ground} === 'rgb(11, 14, 19)'")).await;
    // On the map by arrow keys; a small window.
    page.eval("document.querySelector('div.map').focus()").await;
    page.keys(&["ArrowRight", "ArrowRight", "Enter"]).await;
    page.until("document.querySelector('.detail h2') !== null")
        .await;
    page.size(700, 900).await;
    page.shot("narrow").await;
    page.size(1440, 900).await;
    check(&page, at);
    // When the relay ends, it is said.
    stop.stop();
    page.until("document.querySelector('.health.bad')?.innerText === 'offline'")
        .await;
}
