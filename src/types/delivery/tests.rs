use proptest::prelude::*;

use super::*;

const NOW: Millis = Millis(1_767_225_600_000);

fn policy() -> RetryPolicy {
    RetryPolicy::default()
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None, abort: false }
}

fn pausing(status: u16, seconds: u64) -> Outcome {
    Outcome::Answered { status, retry_after: Some(Duration::from_secs(seconds)), abort: false }
}

fn in_secs(s: u64) -> Verdict {
    Verdict::RetryAt(NOW.plus(Duration::from_secs(s)))
}

const FAULTS: [Fault; 11] = [
    Fault::Dns,
    Fault::Connect,
    Fault::Tls(TlsFault::Expired),
    Fault::Timeout(Phase::Head),
    Fault::Reset,
    Fault::BadResponse,
    Fault::ResponseTooLarge,
    Fault::Refused(AddrClass::Private),
    Fault::LeaseRanOut,
    Fault::NoSocket,
    Fault::Unknown,
];

#[test]
fn the_status_matrix_with_and_without_retry_after() {
    for status in 100..=999 {
        let (plain, late) = match status {
            200..=299 => (Verdict::Delivered, Verdict::Delivered),
            410 => (Verdict::Dead(DeadReason::Gone), Verdict::Dead(DeadReason::Gone)),
            _ => (in_secs(20), in_secs(7_200)),
        };
        assert_eq!(judge(&answered(status), 2, &policy(), None, NOW, 0.0), plain, "{status}");
        assert_eq!(judge(&pausing(status, 7_200), 2, &policy(), None, NOW, 0.0), late, "{status}");
    }
}

#[test]
fn retry_after_is_a_floor_and_buys_no_attempt() {
    assert_eq!(judge(&pausing(503, 1), 3, &policy(), None, NOW, 0.0), in_secs(80));
    assert_eq!(judge(&pausing(429, 3_600), 3, &policy(), None, NOW, 0.9), in_secs(3_600));
    let spent = Verdict::Dead(DeadReason::Exhausted);
    assert_eq!(judge(&pausing(429, 3_600), 14, &policy(), None, NOW, 0.0), spent);
}

#[test]
fn abort_ends_a_delivery_unless_it_is_delivered() {
    let abort = |status| Outcome::Answered { status, retry_after: None, abort: true };
    for (status, want) in [
        (200, Verdict::Delivered),
        (302, Verdict::Dead(DeadReason::Aborted)),
        (410, Verdict::Dead(DeadReason::Gone)),
        (500, Verdict::Dead(DeadReason::Aborted)),
    ] {
        assert_eq!(judge(&abort(status), 1, &policy(), None, NOW, 0.0), want, "{status}");
    }
}

#[test]
fn faults() {
    for fault in FAULTS {
        let want = match fault {
            Fault::Refused(_) => Verdict::Dead(DeadReason::Refused),
            Fault::LeaseRanOut | Fault::NoSocket => in_secs(1),
            _ => in_secs(5),
        };
        assert_eq!(judge(&Outcome::Failed(fault), 1, &policy(), None, NOW, 0.0), want, "{fault:?}");
        let last = match fault {
            Fault::Refused(_) => Verdict::Dead(DeadReason::Refused),
            Fault::LeaseRanOut | Fault::NoSocket => in_secs(1),
            Fault::Unknown => in_secs(43_200),
            _ => Verdict::Dead(DeadReason::Exhausted),
        };
        assert_eq!(judge(&Outcome::Failed(fault), 14, &policy(), None, NOW, 0.0), last, "{fault:?}");
    }
    let first = Outcome::Failed(Fault::Unknown);
    assert_eq!(judge(&first, 0, &policy(), None, NOW, 0.0), in_secs(5));
}

#[test]
fn a_next_try_past_the_end_is_not_made() {
    let expired = Verdict::Dead(DeadReason::Expired);
    let end = |s| Some(NOW.plus(Duration::from_secs(s)));
    assert_eq!(judge(&answered(500), 1, &policy(), end(5), NOW, 0.0), in_secs(5));
    assert_eq!(judge(&answered(500), 1, &policy(), end(4), NOW, 0.0), expired);
    assert_eq!(judge(&answered(500), 1, &policy(), end(5), NOW, 0.1), expired);
    assert_eq!(judge(&pausing(500, 60), 1, &policy(), end(50), NOW, 0.0), expired);
    assert_eq!(judge(&Outcome::Failed(Fault::Unknown), 1, &policy(), end(1), NOW, 0.0), expired);
    assert_eq!(judge(&answered(204), 1, &policy(), end(0), NOW, 0.0), Verdict::Delivered);
    assert_eq!(judge(&answered(500), 14, &policy(), end(0), NOW, 0.0), Verdict::Dead(DeadReason::Exhausted));
}

#[test]
fn all_refusals_look_alike() {
    let (a, b) = (Fault::Refused(AddrClass::Private), Fault::Refused(AddrClass::Loopback));
    assert_eq!((a.kind(), a.to_string()), (b.kind(), b.to_string()));
    assert_eq!((a.refused(), b.refused()), (Some("private"), Some("loopback")), "but to the operator");
    let kinds: std::collections::BTreeSet<_> = FAULTS.iter().map(|f| f.kind()).collect();
    assert_eq!(kinds.len(), FAULTS.len());
}

#[test]
fn words_are_the_same_in_the_store_and_in_json() {
    use DeliveryState::{Cancelled, Dead, Delivered, Held, InFlight, Pending};
    for state in [Pending, InFlight, Delivered, Dead, Held, Cancelled] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        assert_eq!(state.as_str().parse(), Ok(state));
    }
    for held in [HeldReason::Paused, HeldReason::Disabled, HeldReason::Breaker] {
        assert_eq!(serde_json::to_value(held).unwrap(), held.as_str());
        assert_eq!(held.as_str().parse(), Ok(held));
    }
    use DeadReason::{Aborted, Exhausted, Expired, Gone, Poison, Refused, Unsignable};
    for dead in [Exhausted, Gone, Aborted, Expired, Refused, Poison, Unsignable] {
        assert_eq!(serde_json::to_value(dead).unwrap(), dead.as_str());
        assert_eq!(dead.as_str().parse(), Ok(dead));
    }
    assert_eq!("Pending".parse::<DeliveryState>(), Err(UnknownWord));
}

#[test]
fn rolls_are_fixed_for_ever_and_even() {
    let id = DeliveryId::from_uuid(uuid::Uuid::from_u128(7));
    // A change of these numbers changes the times of deliveries that are already scheduled.
    assert_eq!((roll(id, 1), roll(id, 2)), (0.7266285200700817, 0.1902625345564387));
    let mean = (1..=10_000).map(|n| roll(id, n)).sum::<f64>() / 10_000.0;
    assert!((mean - 0.5).abs() < 0.02, "{mean}");
}

proptest! {
    #[test]
    fn a_verdict_is_never_early_nor_past_the_end(
        status in 100u16..=999, after in proptest::option::of(0u64..=86_400), attempt in 0u32..20,
        end in proptest::option::of(0u64..200_000), dice in 0.0f64..1.0,
    ) {
        let retry_after = after.map(Duration::from_secs);
        let expires = end.map(|s| NOW.plus(Duration::from_secs(s)));
        let outcome = Outcome::Answered { status, retry_after, abort: false };
        if let Verdict::RetryAt(at) = judge(&outcome, attempt, &policy(), expires, NOW, dice) {
            prop_assert!(at >= NOW.plus(retry_after.unwrap_or_default()));
            prop_assert!(at >= NOW.plus(policy().interval(attempt.max(1), 0.0)));
            prop_assert!(expires.is_none_or(|end| at <= end));
            prop_assert!(!(200..300).contains(&status) && status != 410 && attempt < 14);
        }
    }

    #[test]
    fn a_roll_is_in_its_range(bits: u128, attempt: u32) {
        let r = roll(DeliveryId::from_uuid(uuid::Uuid::from_u128(bits)), attempt);
        prop_assert!((0.0..1.0).contains(&r));
        prop_assert_eq!(r, roll(DeliveryId::from_uuid(uuid::Uuid::from_u128(bits)), attempt));
    }
}
