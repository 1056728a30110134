//! One suite, every backend: what the I/O layer and the log promise, and the same bytes on disk.
//!
//! ```text
//! backend_suite! --> mod uring { disk cases, log cases } mod mmap { .. } .. mod sim { .. }
//!                        '-- place::run(contestant, case): a fresh directory, a disk, a host
//! ```
//!
//! `auto` is what a log gets that names no backend: where io_uring is forbidden the suite runs on
//! the fallback through it (`forbidden`). `*_cached` go through the page cache, as on a file system
//! that takes no O_DIRECT.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use prkdb_core::Backend;

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod codec;
mod disk;
#[cfg(all(target_os = "linux", not(prkdb_portable)))]
mod forbidden;
mod log;
mod metrics;
mod place;
mod threads;

/// Makes each case a test of one contestant.
macro_rules! cases {
    ($contestant:expr; $($module:ident { $($case:ident),+ $(,)? })+) => {
        use crate::place::Contestant;
        $($(
            #[test]
            fn $case() {
                crate::place::run($contestant, crate::$module::$case);
            }
        )+)+
    };
}

/// A module of tests for each backend: the same cases, and those with threads where there are any.
macro_rules! backend_suite {
    (
        real { $($(#[$when:meta])* $backend:ident = $real:expr;)+ }
        simulated { $(#[$with:meta])* $sim:ident = $simulated:expr; }
    ) => {
        $($(#[$when])* mod $backend {
            #[allow(unused_imports, reason = "not every contestant names a backend")]
            use crate::Backend;
            one_world! { $real }
            mod with_threads {
                #[allow(unused_imports, reason = "not every contestant names a backend")]
                use crate::Backend;
                cases! {
                    $real;
                    threads {
                        a_waker_ends_a_wait_from_another_thread,
                        only_regular_files_are_opened,
                        modes_and_links_are_as_promised,
                        no_descriptor_of_an_open_log_is_inherited,
                        watermarks_rise_together_and_readers_stay_below_them,
                        what_threads_append_at_once_is_all_there_in_each_ones_order,
                        many_callers_on_four_open_segments_make_one_order,
                        any_backend_sync_method_and_policy_continues_what_another_wrote,
                    }
                    codec {
                        threads_compress_at_once,
                    }
                }
            }
        })+
        $(#[$with])*
        mod $sim {
            one_world! { $simulated }
        }
    };
}

/// The cases that need nothing but a world.
macro_rules! one_world {
    ($contestant:expr) => {
        cases! {
            $contestant;
            disk {
                what_was_written_is_read_back,
                every_request_is_answered_once,
                a_waker_ends_the_next_wait_and_so_does_time,
                a_read_ends_at_the_end_of_the_file,
                errors_are_answers,
                dropping_the_queue_finishes_what_was_started,
                a_queue_beside_a_lock_leaves_it_to_its_guard,
                a_file_keeps_working_under_its_new_name,
                names_are_listed_sorted,
                a_name_is_made_once_and_missing_files_are_not_found,
            }
            log {
                records_come_back_in_order_and_so_do_their_lsns,
                calls_outside_the_limits_are_invalid_and_change_nothing,
                a_full_queue_is_busy_and_async_appends_wait_for_room,
                waiting_for_durability_works_for_the_past_and_for_the_future,
                large_batches_come_back_whole,
                queued_records_are_durable_after_close_and_after_drop,
                a_reader_beside_the_writer_sees_promised_records_and_soon_all_of_them,
                four_open_segments_are_one_order,
                cut_segments_are_used_again_and_hold_only_what_is_new,
                a_batch_is_appended_where_it_was_wanted_or_not_at_all,
                the_user_slot_is_kept_with_the_log,
                what_was_cut_from_the_end_is_gone_and_its_lsns_are_given_again,
                a_reset_log_starts_where_it_was_told,
                a_size_window_holds_while_ten_times_as_much_goes_through,
                a_capped_log_goes_on_when_it_was_truncated,
            }
            metrics {
                many_tickets_share_groups,
                refusals_and_waits_for_room_are_counted,
                segments_and_syncs_are_counted,
                the_last_metrics_outlive_the_process,
                what_stands_in_its_file_never_harms_the_log,
            }
            bytes {
                the_same_records_make_the_same_segments,
            }
            codec {
                a_log_of_all_codecs_is_read_whatever_it_is_opened_with,
                what_saves_too_little_or_is_too_short_stays_as_it_is,
                each_option_of_compression_changes_what_is_on_disk,
                a_body_that_is_not_what_its_header_says_is_corrupt_and_its_place_named,
                presets_of_batching_take_batches_of_all_sizes,
            }
        }
    };
}

backend_suite! {
    real {
        auto = Contestant::Auto;
        uring = Contestant::Named(Backend::Uring);
        mmap = Contestant::Named(Backend::Mmap);
        pwrite = Contestant::Named(Backend::Pwrite);
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        tokio_uring = Contestant::Named(Backend::TokioUring);
        uring_cached = Contestant::Cached(Backend::Uring);
        mmap_cached = Contestant::Cached(Backend::Mmap);
        pwrite_cached = Contestant::Cached(Backend::Pwrite);
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        tokio_uring_cached = Contestant::Cached(Backend::TokioUring);
    }
    simulated {
        #[cfg(feature = "sim")]
        sim = Contestant::Sim;
    }
}
