// SPDX-License-Identifier: Apache-2.0
#include "viewer/token_map_model.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/units.h"

namespace kvscope {
namespace {

constexpr const char *kLinesSlot = "token map", *kPictureSlot = "token map picture";

// What a job found out: lines, and whose weights they are; or why there are none.
struct Found {
  TokenLines lines;
  std::string source, failure;
};

bool HoldsQueriesAndKeys(const TraceReader& reader) {
  return reader.info().level == TraceLevel::kQkv || reader.info().level == TraceLevel::kQkvRows;
}

// In a sentence, or empty.
std::string WhyNothing(const TraceReader& reader, HeatmapKind kind, RowReduction reduction) {
  if (kind == HeatmapKind::kStep) {
    if (reader.HasColumns()) {
      return "Token x step needs the weights of each step; this trace holds sums over all queries only (level "
             "relevance): record with --level rows, qkv or qkv+rows.";
    }
    return reader.steps().empty() ? "This run has no decode steps: it ended with the prompt." : "";
  }
  if (reader.HasColumns() && reduction == RowReduction::kEma) {
    return "A moving average needs each query's weights; this trace holds sums and maxima over all queries (level "
           "relevance): choose another reduction, or record with --level qkv.";
  }
  if (!HoldsQueriesAndKeys(reader) && !reader.HasColumns() && reader.num_rows() == 0) {
    return "This trace holds the rows of decode steps only (level rows), and there was no step: record with --level "
           "qkv.";
  }
  return "";
}

std::string SourceText(size_t num_rows, size_t num_stored, bool are_asking) {
  if (are_asking) return StrCat("from ", FormatCount(int64_t(num_rows)), " queries of question and answer");
  if (num_rows < num_stored)
    return StrCat("from ", FormatCount(int64_t(num_rows)), " of ", FormatCount(int64_t(num_stored)), " queries");
  return StrCat("from all ", FormatCount(int64_t(num_rows)), " stored queries");
}

// One line out of those of several heads, which come one by one.
class HeadCombiner {
 public:
  explicit HeadCombiner(LayerHeads how) : how_(how) {}
  void Add(std::span<const float> values) {
    if (++num_heads_ == 1) line_.assign(values.size(), 0);
    for (size_t token = 0; token < line_.size(); ++token) {
      float& value = line_[token];
      value = how_ == LayerHeads::kMean ? value + values[token] : std::max(value, values[token]);
    }
  }
  std::vector<float> Take() {
    if (how_ == LayerHeads::kMean) {
      for (float& value : line_) value /= static_cast<float>(std::max(1, num_heads_));
    }
    return std::move(line_);
  }

 private:
  LayerHeads how_;
  int num_heads_ = 0;
  std::vector<float> line_;
};

// The line of one layer from whatever the trace holds. head: absolute, -1: all.
Found LineOfLayer(const TraceReader& reader, int layer_index, RowReduction reduction, LayerHeads how, int head,
                  std::span<const TokenBand> askers, const std::atomic<bool>& is_cancelled) {
  const LayerInfo& layer = reader.info().layers[layer_index];
  HeadCombiner combiner(how);
  Found found;
  std::vector<int> queries;  // whose rows are in the line; empty: those of all tokens
  const auto is_wanted = [&](int head_index) { return head < 0 || layer.heads[head_index] == head; };
  const int num_heads = static_cast<int>(layer.heads.size());
  int seen = 0;
  if (reader.HasColumns()) {
    const ColumnStatistics columns = reader.ReadColumnStatistics(layer_index);
    for (int i = 0; i < num_heads; ++i) {
      if (is_wanted(i)) combiner.Add(ReduceRows(columns, i, reduction));
    }
    seen = columns.num_tokens;
    found.source = StrCat("from all ", FormatCount(columns.num_rows), " queries, recorded as sums and maxima");
  } else if (HoldsQueriesAndKeys(reader)) {
    const std::vector<int>& q_token = reader.q_token(layer_index);
    std::vector<int> rows = ChooseRows(q_token, askers);
    const bool are_asking = !askers.empty() && !rows.empty();
    if (rows.empty()) rows = ChooseRows(q_token, {});
    const int group = layer.HeadsPerKvHead();
    for (int kv_head = 0; kv_head < static_cast<int>(layer.kv_heads.size()) && !is_cancelled; ++kv_head) {
      std::vector<int> members;
      for (int member = 0; member < group; ++member) {
        if (is_wanted(kv_head * group + member)) members.push_back(member);
      }
      if (members.empty()) continue;
      const auto data = ReadKvHeadForWeights(reader, layer_index, kv_head);
      const std::vector<float> reduced =
          ReduceRows({*data, q_token, RuleOf(layer), members, rows}, reduction, is_cancelled);
      for (size_t i = 0; i < members.size() && !is_cancelled; ++i)
        combiner.Add(std::span(reduced).subspan(i * data->num_tokens, data->num_tokens));
    }
    for (const int row : rows) queries.push_back(q_token[row]);
    seen = queries.empty() ? 0 : queries.back() + 1;
    found.source = SourceText(rows.size(), q_token.size(), are_asking);
  } else {
    for (int i = 0; i < num_heads && !is_cancelled; ++i) {
      if (!is_wanted(i)) continue;
      const RecordedRows recorded = reader.ReadRows(layer_index, i);
      std::vector<int> rows(recorded.num_steps);
      std::iota(rows.begin(), rows.end(), 0);
      combiner.Add(ReduceRows(recorded, rows, reduction));
      queries = recorded.row_token;
      seen = queries.empty() ? 0 : queries.back() + 1;
      found.source = StrCat("from the rows of ", FormatCount(recorded.num_steps), " decode steps");
    }
  }
  found.lines.push_back(combiner.Take());
  if (!queries.empty()) HideUnseen(queries, RuleOf(layer), found.lines[0]);
  found.lines[0].resize(std::min(found.lines[0].size(), static_cast<size_t>(seen)));
  return found;
}

// Every step's line of one head: recorded rows where there are, else computed from `data`.
Found LinesOfSteps(const TraceReader& reader, int layer_index, int head_index, const KvHeadData* data,
                   RowReduction reduction, const std::atomic<bool>& is_cancelled, int& steps_per_line) {
  const LayerInfo& layer = reader.info().layers[layer_index];
  Found found;
  const auto share = [&](int64_t num_steps) {
    const int64_t fitting = std::clamp<int64_t>(
        TokenMapModel::kMostValues / std::max<int64_t>(1, reader.tokens().ids.size()), 1, TokenMapModel::kMostLines);
    steps_per_line = static_cast<int>(std::max<int64_t>(1, (num_steps + fitting - 1) / fitting));
  };
  if (!data) {
    const RecordedRows recorded = reader.ReadRows(layer_index, head_index);
    share(recorded.num_steps);
    found.lines = RunningLines(recorded, RuleOf(layer), reduction, steps_per_line);
    return found;
  }
  const std::vector<int>& q_token = reader.q_token(layer_index);
  const auto first = std::lower_bound(q_token.begin(), q_token.end(), reader.info().prompt_tokens);
  std::vector<int> rows(q_token.end() - first);
  std::iota(rows.begin(), rows.end(), static_cast<int>(first - q_token.begin()));
  if (rows.empty()) {
    found.failure = "The queries of decode steps are not in the file yet.";
    return found;
  }
  share(static_cast<int64_t>(rows.size()));
  const int member = head_index % layer.HeadsPerKvHead();
  found.lines =
      RunningLines({*data, q_token, RuleOf(layer), {&member, 1}, rows}, reduction, steps_per_line, is_cancelled);
  return found;
}

}  // namespace

double TokenMapModel::progress() const {
  return lines_.empty() ? 1 : static_cast<double>(lines_done_) / num_lines();
}

std::optional<float> TokenMapModel::ValueOf(int line, int token) const {
  if (line < 0 || line >= num_lines() || !lines_[line] || token < 0) return {};
  if (token >= static_cast<int>(lines_[line]->size())) return {};
  const float value = (*lines_[line])[token];
  return value == WeightMap::kNoWeight ? std::nullopt : std::optional(value);
}

void TokenMapModel::Update(TraceDocument& document, const ViewState& view, int width, int height,
                           const HeatmapColors& colors, Jobs& jobs) {
  const TraceReader& reader = document.reader();
  const bool is_step = view.heatmap_kind == HeatmapKind::kStep;
  const LayerInfo& layer = reader.info().layers[view.layer_index];
  Request request{.document = &document,
                  .kind = view.heatmap_kind,
                  .reduction = view.reduction,
                  .layer_heads = is_step ? LayerHeads::kOne : view.layer_heads,
                  .layer_index = is_step ? view.layer_index : 0,
                  .head = -1,
                  .num_tokens = document.num_tokens(),
                  .num_steps = static_cast<int>(reader.steps().size())};
  if (request.layer_heads == LayerHeads::kOne) request.head = layer.heads[view.head_index];
  // A layer's row is all that its queries gave: there is no single row to show.
  if (!is_step && request.reduction == RowReduction::kNone) request.reduction = RowReduction::kMax;
  if (request != request_) {
    if (request.kind != request_.kind || request.document != request_.document) image_ = nullptr;
    request_ = request;
    failure_ = WhyNothing(reader, request.kind, request.reduction);
    source_.clear();
    jobs.Cancel(kLinesSlot);
    jobs.Cancel(kPictureSlot);
    lines_.clear();
    lines_done_ = 0;
    steps_per_line_ = 1;
    ++lines_version_;
    if (failure_.empty() && is_step) {
      StartSteps(document, view, jobs);
    } else if (failure_.empty()) {
      lines_.resize(reader.info().layers.size());
      StartLayer(document, 0, jobs);
    }
  }
  if (lines_done_ == 0 || jobs.IsBusy(kPictureSlot))
    return;  // a picture that was begun is seen, however fast one moves
  const MapWindow window = WindowOf(document, view);
  const PictureRequest picture{
      lines_done_, lines_version_, {window.token_begin, window.token_end}, view.is_log, view.masks_sinks, width,
      height,      colors};
  if (picture == picture_) return;
  picture_ = picture;
  StartPicture(picture, jobs);
}

void TokenMapModel::StartLayer(TraceDocument& document, int layer_index, Jobs& jobs) {
  const std::vector<TokenBand> askers = document.BandsOf({"question", "answer"});
  jobs.Start(kLinesSlot,
             [=, this, &document, &jobs, request = request_](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               auto found = std::make_shared<Found>();
               try {
                 *found = LineOfLayer(document.reader(), layer_index, request.reduction, request.layer_heads,
                                      request.head, askers, is_cancelled);
               } catch (const Error& error) {
                 found->failure = error.what();
               }
               return [=, this, &document, &jobs] {
                 failure_ = found->failure;
                 if (!failure_.empty()) return;
                 source_ = found->source;
                 lines_[layer_index] = std::make_shared<const std::vector<float>>(std::move(found->lines[0]));
                 lines_done_ = layer_index + 1;
                 if (lines_done_ < num_lines()) StartLayer(document, lines_done_, jobs);
               };
             });
}

void TokenMapModel::StartSteps(TraceDocument& document, const ViewState& view, Jobs& jobs) {
  std::shared_ptr<const KvHeadData> data;
  if (!document.reader().HasRows()) {
    const LayerInfo& layer = document.reader().info().layers[view.layer_index];
    data = document.KvHead(view.layer_index, view.head_index / layer.HeadsPerKvHead());
    failure_ = document.kv_head_failure();
    if (!data) {
      if (failure_.empty()) request_.num_steps = -1;  // again, until it is read
      return;
    }
  }
  jobs.Start(kLinesSlot,
             [=, this, &document, layer_index = view.layer_index, head_index = view.head_index,
              reduction = view.reduction](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               auto found = std::make_shared<Found>();
               int steps_per_line = 1;
               try {
                 *found = LinesOfSteps(document.reader(), layer_index, head_index, data.get(), reduction, is_cancelled,
                                       steps_per_line);
               } catch (const Error& error) {
                 found->failure = error.what();
               }
               return [=, this] {
                 failure_ = found->failure;
                 source_ = StrCat(data ? "computed" : "recorded", " rows of decode steps");
                 steps_per_line_ = steps_per_line;
                 for (std::vector<float>& line : found->lines)
                   lines_.push_back(std::make_shared<const std::vector<float>>(std::move(line)));
                 lines_done_ = num_lines();
               };
             });
}

void TokenMapModel::StartPicture(const PictureRequest& picture, Jobs& jobs) {
  jobs.Start(kPictureSlot, [this, picture, lines = lines_](const std::atomic<bool>&) -> Jobs::Finish {
    HeatmapOptions options;
    options.background = picture.colors.background;
    options.is_dark = picture.colors.is_dark;
    options.masked_tokens = picture.masks_sinks ? kSinkTokens : 0;
    options.scale = {picture.is_log, HighestWeight(lines, picture.range, options.masked_tokens)};
    const auto image =
        std::make_shared<const Image>(MakeLinesImage(lines, picture.range, options, picture.width, picture.height));
    return [this, picture, options, image] {
      image_ = image;
      range_ = picture.range;
      scale_ = options.scale;
      ++generation_;
    };
  });
}

}  // namespace kvscope
