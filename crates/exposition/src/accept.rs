//! The choice of a format by the header `Accept` of a request.

use crate::encode::Format;

/// Returns the format that a client prefers: OpenMetrics 1.0 if it names it and gives no other text more weight.
pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Format {
    let (mut open_metrics, mut plain) = (0.0_f64, 0.0_f64);
    for range in headers.flat_map(|header| header.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut version) = (1.0, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => weight = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match media.as_str() {
            "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                open_metrics = open_metrics.max(weight);
            }
            "text/plain" if matches!(version, None | Some("0.0.4")) => plain = plain.max(weight),
            _ => {}
        }
    }
    if open_metrics > 0.0 && open_metrics >= plain { Format::OpenMetrics } else { Format::Prometheus }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses_the_format() {
        let of_prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let of_prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;\
                               version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3";
        for accepted in [of_prometheus, of_prometheus_3, "Application/OpenMetrics-Text"] {
            assert_eq!(choose([accepted].into_iter()), Format::OpenMetrics, "{accepted}");
        }
        let others = [
            "",
            "*/*",
            "text/html,*/*;q=0.8",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            ";;,=,q=;",
        ];
        for accepted in others {
            assert_eq!(choose([accepted].into_iter()), Format::Prometheus, "{accepted}");
        }
        assert_eq!(choose(["text/plain;q=0.1", "application/openmetrics-text"].into_iter()), Format::OpenMetrics);
    }
}
