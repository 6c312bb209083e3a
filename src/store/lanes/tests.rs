use proptest::prelude::*;

use super::origin_of;
use crate::types::target::{CallbackUrl, UrlPolicy};

fn agrees(raw: &str) -> bool {
    let policy =
        UrlPolicy { dev: true, allow_hosts: vec!["[2001:db8::1]".to_owned()], ..UrlPolicy::default() };
    let Ok(url) = CallbackUrl::check(raw, &policy) else { return false };
    assert_eq!(origin_of(url.as_str()).unwrap(), (&*url.origin(), url.host()), "{raw}");
    true
}

#[test]
fn the_origin_of_a_stored_url_is_its_parsers() {
    for raw in [
        "https://hooks.shop.com",
        "HTTPS://Hooks.Shop.COM:443/a?b=c",
        "https://hooks.shop.com.:8443/a:b/@c",
        "https://hooks.shop.com?to=https://other.com:1/",
        "https://bücher.shop/?q",
        "http://127.0.0.1:4321/x",
        "http://0x7f.1:4321",
        "http://[::1]:4321/x",
        "http://[::1]",
        "https://[2001:db8::1]:8443/?[::2]:1",
    ] {
        assert!(agrees(raw), "{raw}");
    }
    assert!(origin_of("hooks.shop.com/a").is_err());
}

proptest! {
    #[test]
    fn of_any_url_that_passes(raw in "(http|https)://[a-z0-9.\\[\\]:-]{1,20}(:[0-9]{1,5})?[/?][!-~]{0,20}") {
        agrees(&raw);
    }
}
