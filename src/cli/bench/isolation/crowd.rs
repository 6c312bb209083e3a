//! Who lives side by side: so many of each kind, spread evenly over accounts.

use serde::Serialize;

/// An account has at most so many endpoints.
const PER_ACCOUNT: u32 = 50;

/// How many endpoints of each kind there are.
#[derive(Debug, Clone, Copy, clap::Args, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Crowd {
    /// Endpoints that answer at once.
    #[arg(long, env = "RINGBACK_HEALTHY", value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub healthy: u32,
    /// Endpoints that take a request and never answer.
    #[arg(long, env = "RINGBACK_BLACK_HOLES", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub black_holes: u32,
    /// Endpoints whose answer takes a minute, a byte a second.
    #[arg(long, env = "RINGBACK_SLOW_BODIES", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub slow_bodies: u32,
    /// Endpoints that answer 429.
    #[arg(long, env = "RINGBACK_BUSY", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub busy: u32,
}

impl Crowd {
    /// The bad ones, with the path at which the receiver behaves like that.
    pub fn neighbours(&self) -> [(&'static str, u32); 3] {
        [("/black-hole", self.black_holes), ("/slow-body", self.slow_bodies), ("/busy", self.busy)]
    }

    /// The fewest accounts that have room for all, each with its share of every kind.
    pub fn accounts(&self) -> u32 {
        let kinds = [self.healthy, self.black_holes, self.slow_bodies, self.busy];
        let fits = |n: &u32| kinds.iter().map(|kind| kind.div_ceil(*n)).sum::<u32>() <= PER_ACCOUNT;
        (1..).find(fits).unwrap_or(u32::MAX)
    }

    /// How many healthy endpoints these accounts have that are told in turn of so many events.
    pub fn healthy_told(&self, events: u64) -> u64 {
        let accounts = u64::from(self.accounts());
        let healthy = u64::from(self.healthy);
        let rest = events % accounts;
        // The first accounts have one more where they do not come out even.
        let of_rest = rest * (healthy / accounts) + rest.min(healthy % accounts);
        events / accounts * healthy + of_rest
    }

    /// In words.
    pub fn said(&self) -> String {
        format!(
            "{} healthy endpoints beside {} black holes, {} slow bodies and {} that answer 429",
            self.healthy, self.black_holes, self.slow_bodies, self.busy
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(healthy: u32, bad: [u32; 3]) -> Crowd {
        let [black_holes, slow_bodies, busy] = bad;
        Crowd { healthy, black_holes, slow_bodies, busy }
    }

    #[test]
    fn all_find_room_in_as_few_accounts_as_can_be() {
        assert_eq!(crowd(1_000, [50, 50, 50]).accounts(), 25);
        assert_eq!(crowd(9, [1, 0, 0]).accounts(), 1);
        assert_eq!(crowd(50, [0, 0, 0]).accounts(), 1);
        assert_eq!(crowd(50, [1, 0, 0]).accounts(), 2);
    }

    #[test]
    fn deliveries_are_counted_as_endpoints_take_turns_over_accounts() {
        let crowd = crowd(103, [0, 0, 0]);
        let accounts = crowd.accounts();
        let share = |account: u32| u64::from((0..103).filter(|n| n % accounts == account).count() as u32);
        for events in 0..20 {
            let told = (0..events).map(|n| share((n % u64::from(accounts)) as u32)).sum::<u64>();
            assert_eq!(crowd.healthy_told(events), told, "{events} events over {accounts} accounts");
        }
    }
}
