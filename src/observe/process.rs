//! Processor time, memory, descriptors and start time of this process, under the names that every Prometheus client uses.
//!
//! Read from `/proc/self` at each scrape; what cannot be read is left out.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

/// Clock ticks per second in `/proc/self/stat`: 100 in the interface of Linux on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// The collector; created when the process starts.
#[derive(Debug)]
pub(super) struct Process {
    started: SystemTime,
}

impl Process {
    pub(super) fn new() -> Self {
        Self { started: SystemTime::now() }
    }
}

/// User and system time from the text of `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The program's name, in parentheses, may itself contain spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_ascii_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
    Some((ticks.next()? + ticks.next()?) / TICKS_PER_SECOND)
}

/// Resident memory from the text of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the directory being read.
    u32::try_from(entries.saturating_sub(1)).ok().map(f64::from)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&read("/proc/self/stat")) {
            encoder
                .encode_descriptor(
                    "process_cpu_seconds",
                    "User and system processor time",
                    None,
                    MetricType::Counter,
                )?
                .encode_counter::<[(&str, &str); 0], f64, f64>(&seconds, None)?;
        }
        let started = self.started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", resident_bytes(&read("/proc/self/status"))),
            ("process_open_fds", "Open file descriptors", open_descriptors()),
            ("process_start_time_seconds", "Start of the process, in seconds since 1970", started),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_a_name_with_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1000 0 0 0 150 50 0 0 20 0 5 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_bytes("Name:\tberth\nVmRSS:\t    9216 kB\nThreads:\t4\n"), Some(9_437_184.0));
        assert_eq!(resident_bytes("Name:\tberth\n"), None);
    }

    #[test]
    fn this_process_has_descriptors() {
        assert!(open_descriptors().is_some_and(|count| count >= 1.0));
    }
}
