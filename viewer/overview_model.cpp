// SPDX-License-Identifier: Apache-2.0
#include "viewer/overview_model.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr const char* kSlot = "overview";

struct LayerResult {
  std::vector<HeadEntry> entries;
  std::string failure;
};

// In a sentence, or empty.
std::string WhyNothing(TraceLevel level) {
  if (level != TraceLevel::kRows && level != TraceLevel::kRelevance) return "";
  return StrCat("The overview samples queries and keys of every head; this trace has none (level ", Name(level),
                "): look at the heatmap by layer or step, or record with --level qkv.");
}

LayerResult LookAtLayer(const TraceReader& reader, int layer_index, const std::vector<TokenBand>& needles,
                        const std::vector<TokenBand>& askers, const std::atomic<bool>& is_cancelled) {
  const LayerInfo& layer = reader.info().layers[layer_index];
  const int group = layer.HeadsPerKvHead();
  LayerResult result;
  result.entries.resize(layer.heads.size());
  std::mutex mutex;
  tbb::parallel_for(0, static_cast<int>(layer.kv_heads.size()), [&](int kv_head) {
    try {
      const auto data = ReadKvHeadForWeights(reader, layer_index, kv_head);
      if (data->num_tokens == 0 || data->num_rows == 0) return;
      std::vector<HeadOverview> heads = OverviewOfKvHead(*data, reader.q_token(layer_index), RuleOf(layer),
                                                         OverviewModel::kThumbPixels, needles, askers, is_cancelled);
      for (size_t i = 0; i < heads.size(); ++i) {
        const int head = kv_head * group + static_cast<int>(i);
        result.entries[head] = {layer_index, head, std::move(heads[i])};
      }
    } catch (const Error& error) {
      const std::lock_guard lock(mutex);
      result.failure = error.what();
    }
  });
  std::erase_if(result.entries, [](const HeadEntry& entry) { return entry.overview.size == 0; });
  return result;
}

float ValueOf(const HeadOverview& head, HeadOrder order) {
  switch (order) {
    case HeadOrder::kNeedle:
      return head.needle;
    case HeadOrder::kEntropy:
      return -head.entropy;
    case HeadOrder::kSink:
      return head.sink;
    case HeadOrder::kLocal:
      return head.local;
    case HeadOrder::kLayer:
      break;
  }
  return 0;
}

// Thumbnails have a scale of their own each: their shape is what is compared.
void DrawThumbs(const std::vector<HeadEntry>& entries, size_t first, const HeatmapColors& colors, Image& image) {
  constexpr int kPixels = OverviewModel::kThumbPixels;
  for (size_t i = first; i < entries.size(); ++i) {
    const HeadOverview& head = entries[i].overview;
    const WeightScale scale{true, *std::max_element(head.cells.begin(), head.cells.end())};
    const int left = static_cast<int>(i) % OverviewModel::kThumbColumns * kPixels,
              top = static_cast<int>(i) / OverviewModel::kThumbColumns * kPixels;
    for (int y = 0; y < kPixels; ++y) {
      for (int x = 0; x < kPixels; ++x) {
        const float weight =
            head.cells[static_cast<size_t>(y * head.size / kPixels) * head.size + x * head.size / kPixels];
        image.rgba[static_cast<size_t>(top + y) * image.width + left + x] =
            weight == WeightMap::kNoWeight ? colors.background : InkColor(scale.InkOf(weight), colors.is_dark);
      }
    }
  }
}

Image AtlasFor(int num_entries) {
  constexpr int kPixels = OverviewModel::kThumbPixels, kColumns = OverviewModel::kThumbColumns;
  const int rows = std::max(1, (num_entries + kColumns - 1) / kColumns);
  return {kColumns * kPixels, rows * kPixels,
          std::vector<uint32_t>(static_cast<size_t>(kColumns) * kPixels * rows * kPixels)};
}

}  // namespace

std::vector<int> OrderOf(const std::vector<HeadEntry>& entries, HeadOrder order) {
  std::vector<int> places(entries.size());
  std::iota(places.begin(), places.end(), 0);
  const auto value = [&](int i) {
    const float found = ValueOf(entries[i].overview, order);
    return std::isnan(found) ? -INFINITY : found;
  };
  std::stable_sort(places.begin(), places.end(), [&](int a, int b) { return value(a) > value(b); });
  return places;
}

double OverviewModel::progress() const {
  return num_layers_ == 0 ? 1 : static_cast<double>(layers_done_) / num_layers_;
}

void OverviewModel::Update(TraceDocument& document, const HeatmapColors& colors, Jobs& jobs) {
  if (document_ == &document && num_tokens_ == document.num_tokens() && colors_ == colors) return;
  if (document_ == &document && document.is_growing() && jobs.IsBusy(kSlot)) return;  // first what was begun
  jobs.Cancel(kSlot);
  document_ = &document;
  num_tokens_ = document.num_tokens();
  colors_ = colors;
  entries_.clear();
  image_ = nullptr;
  failure_.clear();
  num_layers_ = static_cast<int>(document.reader().info().layers.size());
  layers_done_ = 0;
  ++generation_;
  failure_ = num_layers_ == 0 ? "This trace holds no layer." : WhyNothing(document.reader().info().level);
  if (failure_.empty()) StartLayer(document, 0, jobs);
}

void OverviewModel::StartLayer(TraceDocument& document, int layer_index, Jobs& jobs) {
  const std::vector<TokenBand> needles = document.BandsOf({"needle"}),
                               askers = document.BandsOf({"question", "answer"});
  jobs.Start(kSlot, [=, this, &document, &jobs](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
    auto result =
        std::make_shared<LayerResult>(LookAtLayer(document.reader(), layer_index, needles, askers, is_cancelled));
    return [=, this, &document, &jobs] {
      const size_t first = entries_.size();
      std::ranges::move(result->entries, std::back_inserter(entries_));
      failure_ = result->failure;
      layers_done_ = layer_index + 1;
      Image image = AtlasFor(static_cast<int>(entries_.size()));
      if (image_) std::copy(image_->rgba.begin(), image_->rgba.end(), image.rgba.begin());
      DrawThumbs(entries_, first, colors_, image);
      image_ = std::make_shared<const Image>(std::move(image));
      ++generation_;
      if (layers_done_ < num_layers_ && failure_.empty()) StartLayer(document, layers_done_, jobs);
    };
  });
}

}  // namespace kvscope
