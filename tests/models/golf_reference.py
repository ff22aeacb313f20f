"""The golf network for one sequence, in float64 numpy, written from the formulas alone."""

import numpy as np

TINY = {
    "vocab_size": 11,
    "num_layers": 3,
    "dim": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_hidden": 24,
}


def spans(text):
    parts = [part.split("-") for part in text.split(",") if part]
    return [i for part in parts for i in range(int(part[0]), int(part[-1]) + 1)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms_norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps)


def pair_angles(c, length, block):
    """Angle per position of each rotated pair."""
    rotated = c["rope_dims"] or c["dim"] // c["num_heads"]
    angles = []
    for i in range(rotated // 2):
        odd = c["rope_base_odd"] if block % 2 else 0
        base, slow = odd or c["rope_base"], 1.0
        if c["rope_scaling"] == "ntk" and length > c["rope_train_len"]:
            base *= (length / c["rope_train_len"]) ** (rotated / (rotated - 2))
        if c["rope_scaling"] == "yarn":
            slow += min(max((2 * i / rotated - 0.25) / 0.75, 0), 1) * (c["rope_factor"] - 1)
        angles.append(base ** (-2 * i / rotated) / slow)
    return np.array(angles)


def rope(x, c, block):
    """x (T, D): turns the pair (i, i + R/2) of the first R channels by -t * its angle."""
    angles = pair_angles(c, len(x), block)
    half = len(angles)
    z = x[:, :half] + 1j * x[:, half : 2 * half]
    z = z * np.exp(-1j * np.outer(np.arange(len(x)), angles))
    return np.concatenate((z.real, z.imag, x[:, 2 * half :]), axis=1)


def values(w, p, x, c, block, ids, first):
    """(T, kv_dim), before and after the first virtual layer's join in."""
    v = x @ w[p + "c_v.weight"].T
    layers = spans(c["value_embed_layers"])
    if block in layers:
        table = w["ve_shared.embed.weight"][ids]
        if "ve_shared.proj.weight" in w:
            table = table @ w["ve_shared.proj.weight"].T
        v = v + table * w["ve_shared.scale"] * w[f"ve_layer_scales.{layers.index(block)}"]
    if c["value_residual"] == "none" or not first:
        first.append(v)
        return v
    if c["value_residual"] == "lambda":
        return w[p + "vr_lambda"][0] * first[0] + w[p + "vr_lambda"][1] * v
    return v + sigmoid(w[p + "vrl_alpha"]) * first[0]


def gates(w, p, x, c):
    """(T, heads)."""
    window, source = c["attn_gate_window"], x
    if c["attn_gate_source"] == "query":
        source = x @ w[p + "c_q.weight"].T
    if c["attn_gate"] == "affine":
        return sigmoid(x @ w[p + "attn_gate.weight"].T + w[p + "attn_gate.bias"])
    if c["attn_gate"] == "plain":
        return sigmoid(c["attn_gate_scale"] * source[:, :window] @ w[p + "attn_gate_w"].T)
    if c["attn_gate"] == "double":
        return 2 * sigmoid(source[:, :window] @ w[p + "attn_gate_proj.weight"].T)
    return np.ones((len(x), c["num_heads"]))


def attention(w, p, x, c, block, ids, first):
    d = c["dim"] // c["num_heads"]
    v_all, gate, out = values(w, p, x, c, block, ids, first), gates(w, p, x, c), []
    for h in range(c["num_heads"]):
        g = h // (c["num_heads"] // c["num_kv_heads"])
        q = rope(rms_norm(x @ w[p + "c_q.weight"][h * d : (h + 1) * d].T), c, block)
        k = rope(rms_norm(x @ w[p + "c_k.weight"][g * d : (g + 1) * d].T), c, block)
        v = v_all[:, g * d : (g + 1) * d]
        if c["q_gain"]:
            q = q * w[p + "q_gain"][h]
        scores = np.where(np.tri(len(x), dtype=bool), q @ k.T / np.sqrt(d), -np.inf)
        e = np.exp(scores - scores.max(1, keepdims=True))
        y = e / e.sum(1, keepdims=True) @ v
        if block >= c["num_layers"] - c["xsa_last_n"]:
            strength = np.tanh(w[p + "xsa_alpha"][h]) if c["xsa_strength"] else 1.0
            y = y - strength * v * ((y * v).sum(1) / (v * v).sum(1))[:, None]
        out.append(y * gate[:, h : h + 1])
    return np.concatenate(out, axis=1) @ w[p + "proj.weight"].T


def mlp(w, p, x, c, block):
    if c["activation"] == "swiglu":
        gate, up = np.split(x @ w[p + "gate_up.weight"].T, 2, axis=1)
        hidden = gate * sigmoid(gate) * up
    else:
        hidden = x @ w[p + "fc.weight"].T
        slope = c["leaky_slope"] if c["activation"] == "leaky_relu2" else 0.0
        if c["leaky_slopes"]:
            slope = float(c["leaky_slopes"].split(",")[block])
        hidden = np.where(hidden > 0, hidden, slope * hidden) ** 2
    return hidden @ w[p + "proj.weight"].T


def int32(number):
    return (number + 2**31) % 2**32 - 2**31


def pair_rows(c, ids):
    """Per position, the rows of the bigram table that are added up."""
    rows, last = [], c["bigram_size"] - 1
    for t, token in enumerate(ids):
        starts = [s == 0 or (c["bos_resets"] and ids[s] == c["bos_id"]) for s in range(t + 1)]
        if c["bigram_hash"] == "linear":
            before = 0 if starts[t] else ids[t - 1]
            rows.append([(c["bigram_multiplier"] * before + token) % c["bigram_size"]])
            continue
        hashed = int32(36313 * token)
        room, shift = last, 0
        if c["bigram_split"]:
            room, shift = last // 2, 0 if token in spans(c["word_starts"]) else last // 2
        two = last if starts[t] else (hashed ^ int32(27191 * ids[t - 1])) % room + shift
        rows.append([two])
        if c["bigram_trigram"] and (starts[t] or starts[t - 1]):
            rows[t].append(last)
        elif c["bigram_trigram"]:
            three = hashed ^ int32(27191 * ids[t - 1]) ^ int32(51497 * ids[t - 2])
            rows[t].append(three % room + shift)
    return rows


def engram(w, c, ids):
    """(T, width): rows of each table side by side, projected and gated."""
    rows, out = c["bigram_size"] // (4 if c["bigram_trigram"] else 2), []
    for t, token in enumerate(ids):
        p, q = (ids[t - back] if t >= back else 0 for back in (1, 2))
        hashes = [p * 1009 + token, (p * 2719 + 314159) ^ (token * 3137)]
        if c["bigram_trigram"]:
            hashes.append((q * 36313) ^ (p * 27191) ^ (token * 4903))
            hashes.append((q * 7919) ^ (p * 4391) ^ (token * 6151))
        found = [w["bigram.embed.weight"][i * rows + h % rows] for i, h in enumerate(hashes)]
        out.append(np.concatenate(found))
    return sigmoid(w["bigram.ngram_gate"]) * (np.stack(out) @ w["bigram.proj.weight"].T)


def bigrams(w, c, ids):
    if c["bigram_hash"] == "engram":
        return engram(w, c, ids)
    x = np.stack([w["bigram.embed.weight"][r].sum(0) for r in pair_rows(c, ids)])
    if "bigram.proj.weight" in w:
        x = x @ w["bigram.proj.weight"].T
    x = x * w["bigram.scale"]
    if c["word_boost"]:
        at = np.isin(ids, spans(c["word_starts"]))
        x = np.where(at[:, None], x * w["word_start_boost"], x)
    return x


def before(x, c, ids):
    """The predecessor's row of x, or zeros where there is none."""
    rows = [np.zeros_like(x[0])]
    for t in range(1, len(x)):
        starts = c["bos_resets"] and ids[t] == c["bos_id"]
        rows.append(np.zeros_like(x[0]) if starts else x[t - 1])
    return np.stack(rows)


def embedding(w, c, ids):
    x = w["tok_emb.weight"][ids]
    if c["bigram_size"]:
        x = x + bigrams(w, c, [int(i) for i in ids])
    if c["smear"] == "window":
        gate = sigmoid(x[:, : c["smear_window"]] @ w["smear_gate.weight"].T)
        x = x + w["smear_lambda"] * gate * before(x, c, ids)
    x = rms_norm(x)
    if c["embed_dim"]:
        x = x @ w["embed_proj.weight"].T
    if c["smear"] == "channels":
        g = sigmoid(w["smear.gate"])
        x = (1 - g) * x + g * before(x, c, ids)
    return x


def cap(z, c):
    u = z / c["softcap"]
    if c["softcap_kind"] == "tanh":
        return c["softcap"] * np.tanh(u)
    u = np.clip(u, -2, 2)
    return c["softcap"] * np.clip(u - u**3 / 3 + u**5 / 15, -1, 1)


def with_row(row, *lanes):
    return [None if lane is None else lane + row for lane in lanes]


def crossed(w, c, b, x, second, a, m):
    """Both lanes behind block b, whose branches gave a and m."""
    r, post = w["parallel_resid_lambdas"][b], w["parallel_post_lambdas"][b]
    if c["lane_decay"] == "own":
        return (
            r[0] * x + post[0, 0] * a + post[1, 0] * m,
            r[1] * second + post[0, 1] * a + post[1, 1] * m,
        )
    return (
        r[1] * (r[0] * x + post[0, 0] * a) + post[1, 0] * m,
        r[1] * (r[0] * second + post[0, 1] * a) + post[1, 1] * m,
    )


def trunk(w, c, x0, ids):
    order = spans(c["layer_order"]) or list(range(c["num_layers"])) * c["passes"]
    half, x, second, skips, first, runs = len(order) // 2, x0, None, [], [], 0
    looped = next((b for b in order if order.count(b) > 1), None)
    for i, b in enumerate(order):
        p = f"blocks.{b}."
        if c["loop_embeds"] and b == looped:
            x, second, runs = *with_row(w["loop_embed.weight"][runs], x, second), runs + 1
        beside = 0 <= c["parallel_start"] <= b
        starts = c["lanes"] == 2 and beside and i >= half and second is None
        if starts and c["lane_split"] == "early":
            second = x
        if i >= half and skips:
            skip = w["skip_weights"][i - half] * skips.pop()
            g = sigmoid(w["skip_gates"][i - half]) if c["skip_gates"] else None
            x = x + skip if g is None else g * x + (1 - g) * skip
            x = rms_norm(x) if c["resid_norm"] else x
        if starts and c["lane_split"] == "late":
            second = x
        mix = w[p + "resid_mix"]
        mixed = mix[0] * x + mix[1] * x0
        divisor = np.sqrt(b + 1) if c["ln_scale"] else 1.0
        read = rms_norm(mixed) / divisor
        a = w[p + "attn_scale"] * attention(w, p + "attn.", read, c, b, ids, first)
        stream = mixed if beside else mixed + a
        if second is not None:
            stream = mix[0] * second + mix[1] * x0 if c["lane_mixes"] == "both" else second
        m = w[p + "mlp_scale"] * mlp(w, p + "mlp.", rms_norm(stream) / divisor, c, b)
        if second is None:
            x = mixed + a + m
        else:
            x, second = crossed(w, c, b, x, second, a, m)
        if c["passes"] > 1:
            x = x * w["pass_gate"][i // c["num_layers"]]
        if i < half:
            skips.append(x)
    ends = {"mean": lambda: (x + second) / 2, "attn": lambda: x, "mlp": lambda: second}
    return x if second is None else ends[c["final_lane"]]()


def reference_logits(weights, c, ids):
    """Logits (T, vocab) of the token ids (T,) in float64."""
    w = {name: np.asarray(a, np.float64) for name, a in weights.items()}
    x = rms_norm(trunk(w, c, embedding(w, c, ids), ids))
    if c["embed_dim"]:
        x = x @ w["head_proj.weight"].T
    return cap(x @ w["tok_emb.weight" if c["tied"] else "lm_head.weight"].T, c)
