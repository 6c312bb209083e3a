use super::*;

const NOW: Millis = Millis(1_000_000);

fn key() -> QueueKey {
    (TenantId::from_uuid(uuid::Uuid::nil()), "default".to_owned(), None)
}

fn after(ms: i64) -> Millis {
    Millis(NOW.0 + ms)
}

fn want() -> LeaseRequest {
    LeaseRequest {
        tenant: key().0,
        queue: key().1,
        types: vec![],
        max: 1,
        lease_seconds: 30,
        renew_seconds: None,
        worker_id: None,
    }
}

/// A look that took no time.
fn look(floors: &Floors, firsts: &[(usize, i64)], now: Millis) -> Floor {
    let floor = floors.get(&key(), now);
    floors.found(&key(), &floor, firsts, Duration::ZERO, now);
    floor
}

#[test]
fn a_floor_is_just_below_the_first_and_never_nearer_than_a_commit_takes() {
    let floors = Floors::default();
    assert_eq!(look(&floors, &[(1, NOW.0 - 5_000), (2, NOW.0 - 10)], NOW).levels, [0; 5]);
    let late = NOW.0 - LONGEST_COMMIT;
    assert_eq!(floors.get(&key(), after(1)).levels, [late, NOW.0 - 5_001, late, late, late]);
}

#[test]
fn a_pass_without_a_floor_comes_each_second_and_more_rarely_where_it_takes_long() {
    let floors = Floors::default();
    look(&floors, &[], NOW);
    assert_ne!(floors.get(&key(), after(999)).levels, [0; 5]);
    let floor = floors.get(&key(), after(1_000));
    assert_eq!(floor.levels, [0; 5]);
    floors.found(&key(), &floor, &[], Duration::from_millis(40), after(1_010));
    assert_ne!(floors.get(&key(), after(3_009)).levels, [0; 5]);
    assert_eq!(floors.get(&key(), after(3_010)).levels, [0; 5]);
}

#[test]
fn a_claim_that_waited_for_a_commit_is_no_clock_that_stepped_back() {
    let floors = Floors::default();
    look(&floors, &[], NOW);
    let late = NOW.0 - LONGEST_COMMIT;
    assert_eq!(floors.get(&key(), after(-900)).levels, [late; 5]);
    assert_eq!(floors.get(&key(), after(-1_001)).levels, [0; 5]);
}

#[test]
fn an_older_look_hides_nothing_from_a_newer_pass() {
    let floors = Floors::default();
    let old = floors.get(&key(), NOW);
    let new = floors.get(&key(), after(3_000));
    floors.found(&key(), &old, &[], Duration::ZERO, after(3_001));
    assert_eq!(floors.get(&key(), after(3_002)).levels, [0; 5], "the newer one has not told yet");
    floors.found(&key(), &new, &[], Duration::ZERO, after(3_003));
    assert_ne!(floors.get(&key(), after(3_004)).levels, [0; 5]);
    assert_eq!(floors.get(&key(), Millis(0)).levels, [0; 5], "the clock stepped back");
}

#[test]
fn what_an_undone_transaction_passed_is_looked_for_again() {
    let floors = Floors::default();
    let want = want();
    let floor = look(&floors, &[], NOW);
    floors.forget([&want].into_iter());
    floors.found(&key(), &floor, &[], Duration::ZERO, NOW);
    assert_eq!(floors.get(&key(), after(1)).levels, [0; 5]);
}

#[test]
fn what_was_found_before_a_transaction_was_undone_hides_nothing_afterwards() {
    let floors = Floors::default();
    let want = want();
    let floor = floors.get(&key(), NOW);
    floors.forget([&want].into_iter());
    // In the very same millisecond.
    assert_eq!(floors.get(&key(), NOW).levels, [0; 5]);
    floors.found(&key(), &floor, &[], Duration::ZERO, NOW);
    assert_eq!(floors.get(&key(), NOW).levels, [0; 5]);
}

#[test]
fn very_many_tenants_are_forgotten_at_once() {
    let floors = Floors::default();
    for i in 0..=QUEUES_REMEMBERED as u128 {
        floors.get(&(TenantId::from_uuid(uuid::Uuid::from_u128(i)), "default".to_owned(), None), NOW);
    }
    look(&floors, &[], NOW);
    assert_eq!(floors.lock().floors.len(), 1);
}

#[test]
fn who_asks_for_ever_new_types_costs_no_other_tenant_its_floors() {
    let floors = Floors::default();
    look(&floors, &[], NOW);
    let other = TenantId::from_uuid(uuid::Uuid::max());
    for i in 0..3 * QUEUES_REMEMBERED {
        floors.get(&(other, "default".to_owned(), Some(i.to_string())), NOW);
    }
    assert!(floors.lock().floors.len() <= QUEUES_REMEMBERED + 1);
    assert_ne!(floors.get(&key(), after(1)).levels, [0; 5]);
}
