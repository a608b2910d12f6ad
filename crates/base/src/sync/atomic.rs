//! loom's atomics, with sequential consistency made of fences.
//!
//! loom takes a sequentially consistent access for an acquiring and releasing one, and would report what cannot happen; of
//! fences it knows all. So such an access has a fence before it here, as compilers put one for processors that have no such accesses
//! either. Accesses of other orders are loom's own, stale values included.

use std::fmt;

use loom::sync::atomic as of_loom;
pub use loom::sync::atomic::{Ordering, fence};

/// The order that is left for the access itself, once a sequentially consistent one has had its fence.
fn fenced(order: Ordering, weaker: Ordering) -> Ordering {
    if order != Ordering::SeqCst {
        return order;
    }
    fence(Ordering::SeqCst);
    weaker
}

macro_rules! atomic {
    ($($name:ident of $value:ty: $($op:ident)*;)*) => {$(
        /// As the standard library's.
        #[derive(Default)]
        pub struct $name(of_loom::$name);

        impl $name {
            /// Holds `value` at first.
            pub fn new(value: $value) -> Self {
                Self(of_loom::$name::new(value))
            }

            /// What it holds.
            pub fn load(&self, order: Ordering) -> $value {
                self.0.load(fenced(order, Ordering::Acquire))
            }

            /// Makes it hold `value`.
            pub fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, fenced(order, Ordering::Release));
            }

            $(
                /// As the standard library's.
                pub fn $op(&self, value: $value, order: Ordering) -> $value {
                    self.0.$op(value, fenced(order, Ordering::AcqRel))
                }
            )*
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

atomic! {
    AtomicBool of bool: swap;
    AtomicU8 of u8: swap fetch_add fetch_sub fetch_max;
    AtomicU32 of u32: swap fetch_add fetch_sub fetch_max;
    AtomicU64 of u64: swap fetch_add fetch_sub fetch_max;
    AtomicUsize of usize: swap fetch_add fetch_sub fetch_max;
}
