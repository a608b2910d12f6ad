//! Opens the volume of its first argument and works on databases in it until it is killed: `redb-workload IMAGE THREADS`.

use std::error::Error;
use std::time::Duration;

use cowback::{Options, Volume};
use cowback_redb::workload;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [image, threads] = args.as_slice() else {
        return Err("usage: redb-workload IMAGE THREADS".into());
    };
    let options = Options {
        threads: threads.parse()?,
        cache_bytes: 4 << 20,
        commit_interval: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let volume = Volume::open(image, &options)?;
    workload::run(&volume, &workload::to_stdout)
}
