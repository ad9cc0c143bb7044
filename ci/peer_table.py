"""The rows of ci/bench-peers, and their table."""

import statistics


def ratio_of(numerator, denominator):
    """Returns a quotient, or None if a side is unknown."""
    return numerator / denominator if numerator and denominator else None


def row_of(case, precision, form, idle, rounds, prepared):
    """Returns the row of a form that answered in every round.

    A round has Admiral's `(seconds, peak, output)` and the seconds of the peers by form. `idle` is the peak of an
    Admiral process that only loaded its libraries. `prepared` has the fields of the peer's first and last answers.
    """
    own = [admiral[0] for admiral, _ in rounds]
    other = [peers[form] for _, peers in rounds]
    ratios = [peer / admiral for peer, admiral in zip(other, own)]
    on_device = "device_peak_bytes" in prepared
    peaks = [admiral[1] for admiral, _ in rounds if admiral[1]]
    # The host's memory says nothing about work on a GPU, for which Admiral reports no peak.
    own_peak = max(peaks) if peaks and not on_device else None
    peer_peak = prepared["device_peak_bytes" if on_device else "peak_bytes"]
    shares = [admiral[2]["solver_percent"] for admiral, _ in rounds if "solver_percent" in admiral[2]]
    return {
        "admiral_seconds": statistics.median(own),
        "peer_seconds": statistics.median(other),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "admiral_peak_bytes": own_peak,
        "peer_peak_bytes": peer_peak,
        "memory_ratio": ratio_of(own_peak, peer_peak),
        "admiral_idle_bytes": idle,
        "peer_idle_bytes": prepared["idle_bytes"],
        "memory_ratio_above_idle": ratio_of(own_peak and own_peak - idle, peer_peak - prepared["idle_bytes"]),
        "peer_prepare_seconds": prepared["prepare_seconds"],
        **{f"peer_{name}": prepared[name] for name in ["device_peak_used_bytes"] if name in prepared},
        **({"solver_percent": statistics.median(shares)} if shares else {}),
        "round_seconds": {"admiral": own, "peer": other},
    }


def summary(case, precision, forms, idle, rounds, prepared, failures):
    """Returns the rows of a case in one precision, one for each form. The fastest peer's row is marked."""
    rows = []
    for form in forms:
        row = {"name": case.name, "parameters": case.parameters, "batch": case.batch, "precision": precision}
        row |= {"form": form, "failure": failures.get(form), "is_fastest_peer": False}
        if form not in failures:
            row.update(row_of(case, precision, form, idle, rounds, prepared[form]))
        rows.append(row)
    ran = [row for row in rows if not row["failure"]]
    if ran:
        min(ran, key=lambda row: row["peer_seconds"])["is_fastest_peer"] = True
    return rows


def megabytes(count):
    """Returns a number of bytes as text, or a dash if it is unknown."""
    return "-" if count is None else f"{count / 1e6:.0f} MB"


def ratio_text(row):
    """Returns the ratio of speeds with its range."""
    return f"{row['ratio']:.2f} ({row['least_ratio']:.2f} to {row['most_ratio']:.2f})"


def memory_text(row):
    """Returns the ratio of peaks as text, and that above the idle processes."""
    if row["memory_ratio"] is None:
        return "-"
    above = row["memory_ratio_above_idle"]
    return f"{row['memory_ratio']:.2f}" + (f" ({above:.2f} above idle)" if above is not None else "")


def speed(row, seconds, job):
    """Returns the time of a step, or the images per second that are drawn."""
    return f"{row['batch'] / seconds:.2f} images/s" if job == "sample" else f"{1e3 * seconds:.1f} ms"


def print_table(result):
    """Prints the table, and a line against the fastest peer for each case and precision."""
    steps = f", {result['ddim_steps']} steps of DDIM" if "ddim_steps" in result else ""
    clock = ", CPU time divided by the threads" if result["clock"] == "processor" else ""
    print(
        f"{result['job']} on {result['device']}, {result['threads']} threads{steps}{clock}; torch {result['torch']}, "
        f"libtorch {result['libtorch']}; {result['rounds']} rounds of {result['steps']} after {result['warmup']}"
    )
    rows = result["rows"]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        parameters = f"{own[0]['parameters']:,} parameters, " if own[0]["parameters"] else ""
        print(f"\n{name}: {parameters}batch {own[0]['batch']}")
        print(
            f"  {'':<5}{'peer':<23}{'Admiral':>17}{'peer':>17}  {'ratio':<22}{'Admiral':>10}{'peer':>10}  "
            "memory of Admiral over peer"
        )
        for row in own:
            if row["failure"]:
                print(f"  {row['precision']:<5}{row['form']:<23}{row['failure']}")
                continue
            sides = ["admiral_seconds", "peer_seconds"]
            times = "".join(f"{speed(row, row[side], result['job']):>17}" for side in sides)
            peaks = "".join(f"{megabytes(row[side]):>10}" for side in ["admiral_peak_bytes", "peer_peak_bytes"])
            print(f"  {row['precision']:<5}{row['form']:<23}{times}  {ratio_text(row):<22}{peaks}  {memory_text(row)}")
        for row in own:
            if row["is_fastest_peer"]:
                print(
                    f"  {row['precision']}: against the fastest peer, {row['form']}: {ratio_text(row)} times as fast, "
                    f"memory {memory_text(row)}"
                )
        for share in [row["solver_percent"] for row in own if "solver_percent" in row][:1]:
            print(f"  Admiral's solver takes {share:.2f} % of its time")
