//! What a larger machine would do, from what a run cost on this one.

use serde::Serialize;

use super::super::part::Cpu;

/// A machine of so many cores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    cores: u32,
    /// Jobs a second with all processes on it, as here.
    all: f64,
    /// The same with server and database alone on it.
    server_and_database: f64,
    /// What the writers could do at most, however many cores there are: a transaction takes the time that it took here.
    writers: f64,
}

impl Machine {
    /// The cores are as busy as here, and each job costs what it costs here, until the writers have no time left.
    pub fn model(jobs_per_second: f64, cpu: &Cpu, writer_micros: f64) -> Vec<Machine> {
        let here = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine::of(here as f64, jobs_per_second, cpu, writer_micros)
    }

    fn of(here: f64, jobs_per_second: f64, cpu: &Cpu, writer_micros: f64) -> Vec<Machine> {
        let all: f64 = cpu.values().sum();
        let part = |name| cpu.get(name).copied().unwrap_or(0.0);
        let served = part("server") + part("database");
        let writers = 1e6 / writer_micros.max(1e-3);
        let machine = |cores: u32| {
            let linear = jobs_per_second * f64::from(cores) / here;
            let alone = linear * all / served.max(1e-3);
            Machine { cores, all: linear.min(writers), server_and_database: alone.min(writers), writers }
        };
        [4, 8, 16].map(machine).into()
    }

    /// In words.
    pub fn said(&self) -> String {
        let Machine { cores, all, server_and_database, .. } = self;
        format!("{cores} cores {all:.0} a second, {server_and_database:.0} for server and database alone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cores_do_more_until_the_writers_are_busy() {
        let cpu = Cpu::from([("server", 60.0), ("database", 20.0), ("driver", 80.0)]);
        let model = Machine::of(2.0, 1_000.0, &cpu, 200.0);
        let seen: Vec<_> = model.iter().map(|m| (m.cores, m.all, m.server_and_database)).collect();
        assert_eq!(seen, [(4, 2_000.0, 4_000.0), (8, 4_000.0, 5_000.0), (16, 5_000.0, 5_000.0)]);
    }
}
