use super::*;
use crate::types::delivery::{Phase, TlsFault};
use crate::types::target::AddrClass;
use proptest::prelude::*;

const NOW: Millis = Millis(1_000_000);

fn after(seconds: u64) -> Millis {
    NOW.plus(Duration::from_secs(seconds))
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None, abort: false }
}

#[test]
fn what_an_outcome_says_of_the_receiver() {
    for (outcome, sign) in [
        (answered(200), Sign::Well),
        (answered(302), Sign::Well),
        (answered(404), Sign::Well),
        (answered(410), Sign::Well),
        (answered(429), Sign::Well),
        (answered(500), Sign::Well),
        (answered(503), Sign::Down),
        (Outcome::Failed(Fault::Dns), Sign::Down),
        (Outcome::Failed(Fault::Connect), Sign::Down),
        (Outcome::Failed(Fault::Tls(TlsFault::Expired)), Sign::Down),
        (Outcome::Failed(Fault::Timeout(Phase::Body)), Sign::Down),
        (Outcome::Failed(Fault::Reset), Sign::Down),
        (Outcome::Failed(Fault::BadResponse), Sign::Well),
        (Outcome::Failed(Fault::ResponseTooLarge), Sign::Well),
        (Outcome::Failed(Fault::Refused(AddrClass::Loopback)), Sign::None),
        (Outcome::Failed(Fault::LeaseRanOut), Sign::None),
        (Outcome::Failed(Fault::Unknown), Sign::None),
    ] {
        assert_eq!(Sign::of(&outcome), sign, "{outcome:?}");
    }
}

/// A breaker that has just opened for the `n`th time in a row, at `NOW`.
fn opened(n: u32) -> Breaker {
    let until = NOW.plus(open_for(n));
    Breaker::Open { until, failures: 10, opened: n }
}

#[test]
fn ten_failures_in_a_row_open_it_and_nine_do_not() {
    let mut breaker = Breaker::Closed { failures: 0 };
    for _ in 0..9 {
        breaker = breaker.heard(Sign::Down, false, NOW);
    }
    assert_eq!(breaker, Breaker::Closed { failures: 9 });
    assert_eq!(breaker.heard(Sign::Well, false, NOW), Breaker::Closed { failures: 0 });
    assert_eq!(breaker.heard(Sign::None, false, NOW), breaker, "what is our own fault is no failure of it");
    let open = breaker.heard(Sign::Down, false, NOW);
    assert_eq!(open, Breaker::Open { until: after(30), failures: 10, opened: 1 });
    assert_eq!(open.leave(NOW), Leave::At(after(30)));
    assert_eq!(open.leave(Millis(after(30).0 - 1)), Leave::At(after(30)));
    assert_eq!(open.leave(after(30)), Leave::Probe);
}

#[test]
fn every_step_of_an_open_breaker() {
    let (probing, probe) = opened(1).sent(after(30));
    assert_eq!((probing, probe), (Breaker::Probing { failures: 10, opened: 1 }, true));
    assert_eq!(probing.leave(after(99)), Leave::AfterProbe, "exactly one");
    assert_eq!(probing.sent(after(99)), (probing, false));
    let closed = Breaker::Closed { failures: 0 };
    for (from, sign, probe, to) in [
        (probing, Sign::Well, true, closed),
        (probing, Sign::Well, false, closed),
        (probing, Sign::Down, true, Breaker::Open { until: after(60), failures: 11, opened: 2 }),
        (probing, Sign::Down, false, Breaker::Probing { failures: 11, opened: 1 }),
        (probing, Sign::None, true, Breaker::Open { until: NOW, failures: 10, opened: 1 }),
        (probing, Sign::None, false, probing),
        (opened(3), Sign::Down, false, Breaker::Open { until: after(120), failures: 11, opened: 3 }),
        (opened(3), Sign::None, false, opened(3)),
        (opened(3), Sign::Well, false, closed),
    ] {
        assert_eq!(from.heard(sign, probe, NOW), to, "{from:?} {sign:?} {probe}");
    }
}

#[test]
fn it_stays_open_for_half_a_minute_and_then_doubles_to_ten_minutes() {
    let times: Vec<u64> = (1..=8).map(|n| open_for(n).as_secs()).collect();
    assert_eq!(times, [30, 60, 120, 240, 480, 600, 600, 600]);
    assert_eq!(open_for(u32::MAX).as_secs(), 600);
}

#[test]
fn what_is_written_down_comes_back() {
    assert_eq!(Breaker::restore(7, 0, Some(NOW)), Breaker::Closed { failures: 7 });
    let open = opened(2);
    assert_eq!(Breaker::restore(open.failures(), open.opened(), Some(after(60))), open);
    let (probing, _) = open.sent(after(60));
    let again = Breaker::restore(probing.failures(), probing.opened(), Some(after(60)));
    assert_eq!(again.leave(after(60)), Leave::Probe, "a probe that a dead node had under way is made again");
}

#[test]
fn limits_bound_what_is_under_way() {
    let limits = |max_in_flight, ordered| Limits { max_in_flight, rate_per_second: None, ordered };
    for (limits, ceiling) in [
        (limits(None, false), 64),
        (limits(Some(3), false), 3),
        (limits(Some(200), false), 200),
        (limits(Some(0), false), 1),
        (limits(Some(9), true), 1),
    ] {
        assert_eq!(limits.ceiling(), ceiling, "{limits:?}");
    }
}

#[test]
fn a_bucket_is_spaced_and_lets_a_tenth_of_a_second_go_at_once() {
    let mut bucket = Bucket::default();
    assert!(bucket.opens_at(5, NOW) <= NOW);
    bucket = bucket.take(5, NOW);
    assert_eq!(bucket.opens_at(5, NOW), Millis(NOW.0 + 200));
    let mut bucket = Bucket::default();
    for _ in 0..10 {
        assert!(bucket.opens_at(100, NOW) <= NOW);
        bucket = bucket.take(100, NOW);
    }
    assert_eq!(bucket.opens_at(100, NOW), Millis(NOW.0 + 10));
    let handed_on = Bucket::restore(Some(bucket.full_at()));
    assert_eq!(handed_on.opens_at(100, NOW), Millis(NOW.0 + 10));
    let back = NOW.minus(Duration::from_secs(3_600));
    assert_eq!(bucket.opens_at(100, back), back, "a clock set back keeps it shut for no hour");
    assert_eq!(bucket.take(100, back).opens_at(100, back), Millis(back.0 + 10), "and its pace is kept");
}

proptest! {
    /// Whatever comes back in whatever order: never two probes at once, nothing goes while it is open.
    #[test]
    fn one_probe_at_a_time(steps in prop::collection::vec((0..4u8, 0..40_000i64), 1..300)) {
        let (mut breaker, mut now, mut probe) = (Breaker::Closed { failures: 0 }, NOW, false);
        for (step, wait) in steps {
            now = Millis(now.0 + wait);
            let sign = match step { 0 => Sign::Well, 1 => Sign::None, _ => Sign::Down };
            match breaker.leave(now) {
                Leave::Freely => breaker = breaker.heard(sign, false, now),
                Leave::Probe => {
                    prop_assert!(!probe);
                    let (next, is) = breaker.sent(now);
                    prop_assert!(is);
                    (breaker, probe) = (next, true);
                }
                Leave::At(at) => prop_assert!(at > now && at <= now.plus(OPEN.1)),
                Leave::AfterProbe => {
                    prop_assert!(probe);
                    (breaker, probe) = (breaker.heard(sign, true, now), false);
                }
            }
        }
    }

    /// In no second go more than the rate and a burst, and who always has something to send loses nothing.
    #[test]
    fn the_rate_is_kept(rate in 1..2_000u32, gaps in prop::collection::vec(0..400i64, 50..400)) {
        let (mut bucket, mut now, mut sent) = (Bucket::default(), NOW, Vec::new());
        for gap in gaps {
            now = Millis(now.0 + gap);
            for _ in 0..50 {
                if bucket.opens_at(rate, now) > now {
                    break;
                }
                bucket = bucket.take(rate, now);
                sent.push(now);
            }
        }
        let most = rate + (rate / 10).max(1);
        for (n, at) in sent.iter().enumerate() {
            let within = sent[n..].iter().take_while(|t| t.0 < at.0 + 1_000).count();
            prop_assert!(within <= most as usize, "{within} in a second, {rate} a second");
        }
        prop_assert!(bucket.opens_at(rate, now).0 <= now.0 + 1 + 1_000 / i64::from(rate));
    }
}
