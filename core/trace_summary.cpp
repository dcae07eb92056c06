// SPDX-License-Identifier: Apache-2.0
#include "core/trace_summary.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/trace_schema.h"
#include "core/units.h"

namespace kvscope {
namespace {

using Json = nlohmann::ordered_json;

std::string Pad(std::string text, size_t width) {
  size_t characters = 0;
  for (const char c : text) characters += (static_cast<unsigned char>(c) >> 6) != 2;
  if (characters < width) text.append(width - characters, ' ');
  return text;
}
std::string PadLeft(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

// "0-29", "0, 4, 8-11"
std::string Ranges(const std::vector<int>& numbers) {
  std::string out;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i;
    while (end + 1 < numbers.size() && numbers[end + 1] == numbers[end] + 1) ++end;
    out += StrCat(out.empty() ? "" : ", ", numbers[i], end > i ? StrCat("-", numbers[end]) : "");
    i = end + 1;
  }
  return out;
}

std::string Quoted(std::string_view text, size_t most) {
  return StrCat("\"", Shorten(Escape(text), most), "\"");
}

struct Page {
  void Add(const std::string& heading, const std::string& text) { lines.push_back({heading, text}); }
  std::vector<SummaryLine> lines;
};

// Headings in a column of their own, a gap behind the first line.
std::string TextOf(const std::vector<SummaryLine>& lines) {
  std::string text, last;
  for (const SummaryLine& line : lines) {
    text += Pad(line.heading == last ? "" : line.heading, 11) + line.text + (last.empty() ? "\n\n" : "\n");
    last = line.heading;
  }
  return text;
}

std::string StateOf(const std::string& path, const TraceReader& trace) {
  if (trace.status() != TraceStatus::kRecording) return std::string(Name(trace.status()));
  return IsBeingWritten(path) ? "being recorded" : "interrupted (kvscope recover makes it open anywhere)";
}

struct ArrayBytes {
  int64_t q = 0, k = 0, v = 0, lse = 0, rows = 0, columns = 0;
};

ArrayBytes BytesOf(const TraceReader& trace) {
  ArrayBytes bytes;
  const int64_t element = static_cast<int64_t>(ElementBytes(trace.info().model.kv_dtype));
  const auto tokens = static_cast<int64_t>(trace.tokens().ids.size());
  for (size_t i = 0; i < trace.info().layers.size(); ++i) {
    const LayerInfo& layer = trace.info().layers[i];
    const auto heads = static_cast<int64_t>(layer.heads.size()), kv_heads = static_cast<int64_t>(layer.kv_heads.size());
    const auto rows = static_cast<int64_t>(trace.q_token(static_cast<int>(i)).size());
    const TraceLevel level = trace.info().level;
    if (level == TraceLevel::kQkvRows || level == TraceLevel::kQkv) {
      bytes.q += heads * rows * layer.head_dim_k * element;
      bytes.k += kv_heads * tokens * layer.head_dim_k * element;
      bytes.v += kv_heads * tokens * layer.head_dim_v * element;
      bytes.lse += heads * rows * 4;
    }
    if (trace.HasRows()) bytes.rows += heads * trace.num_rows() * tokens * 2;
    if (trace.HasColumns()) bytes.columns += 2 * heads * trace.num_column_tokens(static_cast<int>(i)) * 4;
  }
  return bytes;
}

// What a layer's attention is, but for its shape: "window 512, scale 0.0625, soft-cap 50, RoPE set local".
std::string AttentionOf(const LayerInfo& layer) {
  const std::string kind = layer.kind == "window" ? "window" : Escape(layer.kind) + " attention";
  return StrCat(kind, layer.window > 0 ? StrCat(layer.kind == "window" ? " " : ", window ", layer.window) : "",
                ", scale ", layer.scale, layer.softcap > 0 ? StrCat(", soft-cap ", layer.softcap) : "",
                layer.sink ? ", a learned sink" : "", ", RoPE set ", Escape(layer.rope_set));
}

// A line for each kind of layer, in the order of their first ones.
void AddAttention(Page& page, const TraceInfo& info) {
  std::vector<std::pair<std::string, std::vector<int>>> groups;
  for (const LayerInfo& layer : info.layers) {
    const std::string attention = AttentionOf(layer);
    const auto found = std::ranges::find(groups, attention, &std::pair<std::string, std::vector<int>>::first);
    auto& group = found == groups.end() ? groups.emplace_back(attention, std::vector<int>()) : *found;
    group.second.push_back(layer.layer);
  }
  for (const auto& [attention, layers] : groups) {
    const bool is_all = static_cast<int>(layers.size()) == info.model.num_layers;
    page.Add("attention", StrCat(is_all               ? ""
                                 : layers.size() == 1 ? "layer "
                                                      : "layers ",
                                 is_all ? "all layers" : Ranges(layers), ": ", attention));
  }
}

void AddModel(Page& page, const TraceInfo& info) {
  const ModelInfo& model = info.model;
  page.Add("model", StrCat(Escape(model.name), " (", Escape(model.architecture), "), ", model.num_layers,
                           " layers, vocabulary ", FormatCount(model.vocab), ", cache in ", Name(model.kv_dtype)));
  if (!info.layers.empty()) {
    const LayerInfo& layer = info.layers[0];
    page.Add("model",
             StrCat(layer.num_heads, " query heads on ", layer.num_kv_heads, " KV heads, head dimension ",
                    layer.head_dim_k, layer.head_dim_v != layer.head_dim_k ? StrCat(" and ", layer.head_dim_v) : ""));
  }
  page.Add("model", StrCat("sha256 ", Escape(model.file_sha256)));
  AddAttention(page, info);
  page.Add("run", StrCat(Escape(info.run_id), ", ", Escape(info.created_utc), ", ", Escape(info.generator)));
  page.Add("run", StrCat(Escape(model.backend), " (", Escape(model.device), "), ", Escape(model.engine_flags)));
  std::vector<int> layers;
  for (const LayerInfo& layer : info.layers) layers.push_back(layer.layer);
  const bool all_layers = static_cast<int>(layers.size()) == model.num_layers;
  const bool all_heads = std::all_of(info.layers.begin(), info.layers.end(), [](const LayerInfo& layer) {
    return static_cast<int>(layer.heads.size()) == layer.num_heads;
  });
  page.Add("recorded", StrCat(Name(info.level), ", ", all_layers ? "all layers" : "layers " + Ranges(layers), ", ",
                              all_heads ? "all heads" : "some heads", ", query rows ", Escape(model.query_rows),
                              ", prefill in chunks of ", FormatCount(model.prefill_chunk)));
}

void AddRanges(Page& page, const TraceInfo& info) {
  size_t width = 0;
  for (const Segment& segment : info.segments) width = std::max(width, segment.role.size());
  for (const Span& span : info.spans) width = std::max(width, span.kind.size());
  width = std::min<size_t>(width, 24) + 2;
  const auto range = [&](const std::string& name, int begin, int end) {
    return StrCat(Pad(Shorten(Escape(name), width), width), PadLeft(FormatCount(begin), 9), " .. ",
                  PadLeft(FormatCount(end), 9));
  };
  for (const Segment& segment : info.segments) {
    page.Add("segments", StrCat(range(segment.role, segment.token_begin, segment.token_end),
                                segment.decide_at ? "   a policy may decide at its end" : ""));
  }
  for (const Span& span : info.spans) {
    page.Add("spans", StrCat(range(span.kind, span.token_begin, span.token_end), "   ", Quoted(span.label, 60)));
  }
}

void AddOutcome(Page& page, const TraceReader& trace) {
  const TaskInfo& task = trace.info().task;
  std::string expected;
  for (const std::string& answer : task.expected_answers) {
    expected += (expected.empty() ? ", expects " : " or ") + Quoted(answer, 40);
  }
  page.Add("task", StrCat(task.name.empty() ? "none" : Escape(task.name), ", seed ", task.seed, expected));
  if (task.parameters_json != "{}") page.Add("task", Shorten(Escape(task.parameters_json), 100));
  if (!trace.answer().text.empty()) page.Add("answer", Quoted(trace.answer().text, 100));
  if (!std::isnan(trace.answer().score)) {
    page.Add("answer", StrCat("score ", trace.answer().score, " by ", Escape(task.scorer)));
  }
}

void AddCosts(Page& page, const TraceReader& trace) {
  const ArrayBytes bytes = BytesOf(trace);
  page.Add("arrays", StrCat("q ", FormatBytes(bytes.q), "   k ", FormatBytes(bytes.k), "   v ", FormatBytes(bytes.v),
                            "   lse ", FormatBytes(bytes.lse), "   rows ", FormatBytes(bytes.rows)));
  if (trace.HasColumns() && !trace.info().layers.empty()) {
    page.Add("arrays", StrCat("column_sum and column_max ", FormatBytes(bytes.columns), ", from ",
                              FormatCount(trace.num_column_rows(0)), " query rows"));
  }
  if (trace.steps().empty()) return;
  const StepInfo& last = trace.steps().back();
  int64_t stall_ns = 0;
  for (const StepInfo& step : trace.steps()) stall_ns += step.stall_ns;
  page.Add("decoding", StrCat(FormatCount(static_cast<int64_t>(trace.steps().size())), " steps, the last one ",
                              FormatSecs(last.time_ns * 1e-9), " after the start; waited ", FormatSecs(stall_ns * 1e-9),
                              " for the writer"));
}

// Bytes that are not UTF-8 would make the JSON library throw.
std::string Utf8(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace

std::vector<SummaryLine> SummaryLines(const std::string& path, const TraceReader& trace) {
  const TraceInfo& info = trace.info();
  const auto tokens = static_cast<int64_t>(trace.tokens().ids.size());
  const int64_t prompt = std::min<int64_t>(info.prompt_tokens, tokens);
  Page page;
  page.Add("trace", StrCat(Escape(path), "   ", StateOf(path, trace), ", ", FormatBytes(trace.file_bytes())));
  AddModel(page, info);
  page.Add("tokens", StrCat(FormatCount(tokens), " = ", FormatCount(prompt), " prompt + ", FormatCount(tokens - prompt),
                            " generated"));
  AddRanges(page, info);
  AddOutcome(page, trace);
  AddCosts(page, trace);
  return std::move(page.lines);
}

std::string SummaryText(const std::string& path, const TraceReader& trace) {
  return TextOf(SummaryLines(path, trace));
}

std::string SummaryJson(const std::string& path, const TraceReader& trace) {
  const TraceInfo& info = trace.info();
  const ModelInfo& model = info.model;
  Json out;
  out["path"] = Utf8(path);
  out["status"] = Name(trace.status());
  out["being_written"] = IsBeingWritten(path);
  out["file_bytes"] = trace.file_bytes();
  out["run_id"] = Utf8(info.run_id);
  out["created_utc"] = Utf8(info.created_utc);
  out["generator"] = Utf8(info.generator);
  out["level"] = Name(info.level);
  out["model"] = {{"name", Utf8(model.name)},
                  {"architecture", Utf8(model.architecture)},
                  {"layers", model.num_layers},
                  {"vocab", model.vocab},
                  {"file_sha256", Utf8(model.file_sha256)},
                  {"backend", Utf8(model.backend)},
                  {"device", Utf8(model.device)},
                  {"engine_flags", Utf8(model.engine_flags)},
                  {"kv_dtype", Name(model.kv_dtype)},
                  {"prefill_chunk", model.prefill_chunk},
                  {"query_rows", Utf8(model.query_rows)}};
  out["layers"] = Json::array();
  for (const LayerInfo& layer : info.layers) {
    out["layers"].push_back({{"layer", layer.layer},
                             {"kind", layer.kind},
                             {"window", layer.window},
                             {"scale", layer.scale},
                             {"softcap", layer.softcap},
                             {"sink", layer.sink},
                             {"rope_set", Utf8(layer.rope_set)},
                             {"heads", layer.heads},
                             {"kv_heads", layer.kv_heads},
                             {"head_dim_k", layer.head_dim_k},
                             {"head_dim_v", layer.head_dim_v}});
  }
  out["prompt_tokens"] = info.prompt_tokens;
  out["tokens"] = trace.tokens().ids.size();
  out["steps"] = trace.steps().size();
  out["segments"] = Json::array();
  for (const Segment& segment : info.segments) {
    out["segments"].push_back({{"role", Utf8(segment.role)},
                               {"turn", segment.turn},
                               {"token_begin", segment.token_begin},
                               {"token_end", segment.token_end},
                               {"decide_at", segment.decide_at}});
  }
  out["spans"] = Json::array();
  for (const Span& span : info.spans) {
    out["spans"].push_back({{"kind", Utf8(span.kind)},
                            {"token_begin", span.token_begin},
                            {"token_end", span.token_end},
                            {"label", Utf8(span.label)}});
  }
  out["task"] = {{"name", Utf8(info.task.name)},
                 {"parameters", Utf8(info.task.parameters_json)},
                 {"seed", info.task.seed},
                 {"scorer", Utf8(info.task.scorer)}};
  out["task"]["expected_answers"] = Json::array();
  for (const std::string& answer : info.task.expected_answers) out["task"]["expected_answers"].push_back(Utf8(answer));
  out["answer"] = {{"text", Utf8(trace.answer().text)}, {"score", nullptr}};
  if (!std::isnan(trace.answer().score)) out["answer"]["score"] = trace.answer().score;
  return out.dump(2) + "\n";
}

std::string VerifyText(const std::string& path, const TraceReader& trace, const VerifyResult& result) {
  Page page;
  const auto line = [&](const char* heading, const char* what, double found, double limit) {
    page.Add(heading, StrCat(Pad(what, 48), FormatScientific(found), "   limit ", FormatScientific(limit), "   ",
                             found < limit ? "ok" : "DIFFERS"));
  };
  const double recorded_limit = 5e-4 + 3e-8 * static_cast<double>(trace.tokens().ids.size());
  page.Add("verify", StrCat(Escape(path), "   ", FormatCount(result.rows_checked), " rows checked"));
  line("recorded", "largest difference from exp(score - lse)", result.largest_row_difference, 5e-4);
  line("recorded", "largest |sum - 1| of a row", result.largest_recorded_sum_error, recorded_limit);
  line("rebuilt", "largest |sum - 1| of a row", result.largest_rebuilt_sum_error, 1e-4);
  page.Add("worst", result.worst_place.empty() ? "nothing to compare" : result.worst_place);
  const TraceLevel level = trace.info().level;
  page.Add("result",
           result.ok
               ? (level == TraceLevel::kRelevance ? "the columns add up to one per query row; no rows to compare"
                  : level == TraceLevel::kRows    ? "every recorded row adds up to one; no q, k and lse to compare with"
                  : trace.HasRows()               ? "the recorded rows follow from q, k and lse"
                                    : "every row rebuilt from q, k and lse adds up to one; none were recorded")
               : "DIFFERS: the file was changed or the recorder is wrong; do not trust results from it");
  return TextOf(page.lines);
}

std::string VerifyJson(const std::string& path, const VerifyResult& result) {
  const Json out = {{"path", Utf8(path)},
                    {"ok", result.ok},
                    {"rows_checked", result.rows_checked},
                    {"largest_row_difference", result.largest_row_difference},
                    {"largest_recorded_sum_error", result.largest_recorded_sum_error},
                    {"largest_rebuilt_sum_error", result.largest_rebuilt_sum_error},
                    {"worst_place", result.worst_place}};
  return out.dump(2) + "\n";
}

}  // namespace kvscope
