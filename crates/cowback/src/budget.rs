//! Memory and dirty limits: [`Budget`], which volumes share, and [`Group`], which files belong to.
//!
//! A volume has a budget of its own, of [`Options::cache_bytes`](crate::Options::cache_bytes), unless it is put into a group of another with
//! [`Options::group`](crate::Options::group). All that is in a budget belongs to a group: to the root group at first. Others have limits of
//! their own, within which nobody else can touch their pages, and at which nobody but their own writers are slowed down.
//!
//! Volumes of one group wait for each other's devices at the group's limits, but for those whose writes fail: one whose device may hang should have a
//! group of its own.
//!
//! A volume whose device is a file of another volume needs a budget of its own, or another group: at a limit that they share, each would wait for
//! the other to write.
//!
//! ```
//! use std::sync::Arc;
//!
//! use cowback::budget::{Budget, Limits};
//! use cowback::device::MemoryDevice;
//! use cowback::{Options, Volume};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // 64 MiB for all, of which one tenant has 8 MiB: it may leave 4 MiB of that unwritten before it has to wait.
//! let budget = Budget::new(Limits::for_budget(64 << 20));
//! let tenant = budget.group("tenant", Limits::for_budget(8 << 20));
//!
//! // Two volumes share it. All of the first is the tenant's.
//! let device = || Arc::new(MemoryDevice::new(256 << 20));
//! let of_tenant = Options { group: Some(tenant.clone()), ..Options::default() };
//! let first = Volume::create_on(device(), &of_tenant)?;
//! let shared = Options { group: Some(budget.root()), ..Options::default() };
//! let second = Volume::create_on(device(), &shared)?;
//!
//! let log = first.create_file("log")?;
//! log.write_at(0, &[1; 10_000])?;
//! assert_eq!(tenant.stats().cached, 12_288); // whole pages
//!
//! // A single file of the second is the tenant's too, from here on, with what is cached of it.
//! let file = second.create_file("file")?;
//! file.write_at(0, b"a page")?;
//! file.set_group(&tenant)?;
//! assert_eq!(tenant.stats().dirty, 16_384);
//!
//! // Memory is short: what is clean can go at once.
//! first.commit()?;
//! assert_eq!(budget.reclaim(1 << 20), 12_288);
//! budget.set_limits(Limits::for_budget(16 << 20));
//!
//! drop((log, file));
//! first.close()?;
//! second.close()?;
//! assert_eq!(budget.cached_bytes(), 0); // a closed volume gives all back
//! # Ok(())
//! # }
//! ```

pub use cowback_page_cache::{Budget, CacheLimits as Limits, Group};
