//! librdkafka's error codes to orders, the one table. A broker that is away, moving or busy is tried again;
//! an offset that is gone or a right that is missing halts the partition, because going on would skip.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::fault::Fault;

/// `about` says which topic, partition or broker it was.
pub fn of(code: Code, about: &str) -> Fault {
    let slug = format!("kafka.{}", format!("{code:?}").to_lowercase());
    match code {
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Fault::stop(
            "kafka.offset_out_of_range",
            format!(
                "{about}: the broker no longer has the offset that the ledger says comes next (retention passed it, or \
                 the topic was truncated). To go on from what there is, set next_offset of this partition in \
                 sluicegate_ledger by hand and restart; what lies between is lost"
            ),
        ),
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Fault::retry(slug, format!("{about}: {code}: grant this user the right, nothing else is needed"))
        }
        // The client skips what it cannot read and goes on behind it: to go on here would lose that.
        Code::BadMessage
        | Code::BadCompression
        | Code::InvalidMessage
        | Code::Fatal
        | Code::UnsupportedForMessageFormat => Fault::stop(
            slug,
            format!(
                "{about}: {code}. What cannot be read there would be skipped. To go on behind it, set next_offset of \
                 this partition in sluicegate_ledger by hand and restart"
            ),
        ),
        _ => Fault::retry(slug, format!("{about}: {code}")),
    }
}

pub fn of_error(error: &KafkaError, about: &str) -> Fault {
    match (error.rdkafka_error_code(), error) {
        (Some(code), _) => of(code, about),
        (None, KafkaError::ClientConfig(_, why, key, value)) => {
            Fault::stop("kafka.option", format!("{key} = \"{value}\": {why}"))
        }
        (None, other) => Fault::retry("kafka.client", format!("{about}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_is_tried_again_and_a_lost_offset_is_not_jumped_over() {
        for code in [Code::BrokerTransportFailure, Code::AllBrokersDown, Code::UnknownTopicOrPartition] {
            assert!(matches!(of(code, "t/0"), Fault::Retry(_)), "{code:?}");
        }
        for code in [Code::AutoOffsetReset, Code::OffsetOutOfRange, Code::BadMessage, Code::Fatal] {
            assert!(matches!(of(code, "t/0"), Fault::Stop(_)), "{code:?}");
        }
    }
}
