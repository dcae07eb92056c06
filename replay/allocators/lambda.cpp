// SPDX-License-Identifier: Apache-2.0
// One Lagrange multiplier over bits: every entry takes the bits b, not above those it has, that make
//   priority^power * D(b) + lambda * bytes(b)
// least, D(0) = 1 for a dropped entry, D measured on the prompt; lambda is the smallest at which the bytes hold. On the
// lower convex hull of (bytes, D) this is a rule of thresholds, with one number in place of one per step. What is left
// over is spent on the promotions that gain most per byte, so that less than one entry's bytes stay unspent.
//
// Paper    none: ADKVC's own rule, from rate-distortion theory.
// Rule     share=global: one lambda for all layers, and the `floor` most relevant of each layer's uniform share keep at
//          least the lowest bits; share=layer: equal bytes and an own lambda for each layer. After the decision a layer
//          keeps the bytes that the decision gave it, so that layers need not wait for each other.
// Test     tests/replay/allocators/lambda_test.cpp
#include <cmath>
#include <map>

#include "replay/allocators/bit_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

// One way to keep an entry.
struct Step {
  uint8_t bits = 0;
  double bytes = 0, distortion = 1;
};

// The lower convex hull of the steps up to `highest` bits: bytes ascending, distortion falling, each step gaining less
// per byte than the one before. The first is to be dropped, or the lowest bits for entries that must stay.
std::vector<Step> HullUpTo(const SpendingView& view, int highest, bool may_drop) {
  std::vector<Step> steps;
  if (may_drop || highest == 0) steps.push_back({});
  for (size_t i = view.ladder.size(); i-- > 0;) {  // ascending bits
    if (view.ladder[i] <= highest) steps.push_back({view.ladder[i], view.entry_bytes[i], view.distortion[i]});
  }
  std::vector<Step> hull;
  const auto gain = [](const Step& from, const Step& to) {
    return (from.distortion - to.distortion) / (to.bytes - from.bytes);
  };
  for (const Step& step : steps) {
    if (!hull.empty() && step.distortion >= hull.back().distortion) continue;
    while (hull.size() >= 2 && gain(hull.back(), step) >= gain(hull[hull.size() - 2], hull.back())) hull.pop_back();
    hull.push_back(step);
  }
  return hull;
}

class Search {
 public:
  Search(const SpendingView& view, double power, int floor_entries) : view_(view) {
    for (size_t row = 0; row < view.rows.size(); ++row) {
      const SpendingView::Row& slots = view.rows[row];
      const std::vector<uint8_t> must_stay = MustStay(slots, floor_entries);
      for (size_t slot = 0; slot < slots.priority.size(); ++slot) {
        if (slots.bits_now[slot] == 0) continue;
        const auto key = std::pair{int{slots.bits_now[slot]}, must_stay[slot] != 0};
        auto found = hulls_.find(key);
        if (found == hulls_.end()) found = hulls_.emplace(key, HullUpTo(view, key.first, !key.second)).first;
        const double weight = std::pow(std::max(0.0, double{slots.priority[slot]}), power);
        items_.push_back({weight, &found->second, 0, static_cast<int>(row), static_cast<int>(slot)});
      }
    }
  }

  Bits Run() {
    double low = -120, high = 120;  // log10 of lambda: beyond any weight over bytes
    SetSteps(std::pow(10, low));
    if (BytesInUse() > view_.bytes) {
      for (int i = 0; i < kIterations; ++i) {
        const double middle = (low + high) / 2;
        SetSteps(std::pow(10, middle));
        (BytesInUse() > view_.bytes ? low : high) = middle;
      }
      SetSteps(std::pow(10, high));
      SpendTheRest();
    }
    Bits bits;
    for (const SpendingView::Row& row : view_.rows) bits.emplace_back(row.priority.size());
    for (const Item& item : items_) bits[item.row][item.slot] = (*item.hull)[item.step].bits;
    return bits;
  }

 private:
  static constexpr int kIterations = 60;
  struct Item {
    double weight = 0;
    const std::vector<Step>* hull = nullptr;
    size_t step = 0;
    int row = 0, slot = 0;
    // What the next step up gains per byte.
    double Gain() const {
      const Step &from = (*hull)[step], &to = (*hull)[step + 1];
      return weight * (from.distortion - to.distortion) / (to.bytes - from.bytes);
    }
    bool CanRise() const { return step + 1 < hull->size(); }
  };

  std::vector<uint8_t> MustStay(const SpendingView::Row& row, int floor_entries) const {
    std::vector<uint8_t> must_stay(row.priority.size());
    std::vector<int> order;
    for (size_t slot = 0; slot < must_stay.size(); ++slot) {
      if (row.bits_now[slot] > 0) order.push_back(static_cast<int>(slot));
    }
    const size_t count = std::min<size_t>(order.size(), std::max(1, floor_entries));
    std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(), [&](int a, int b) {
      return row.priority[a] != row.priority[b] ? row.priority[a] > row.priority[b] : a < b;
    });
    for (size_t i = 0; i < count; ++i) must_stay[order[i]] = 1;
    return must_stay;
  }

  void SetSteps(double lambda) {
    for (Item& item : items_) {
      item.step = 0;
      while (item.CanRise() && item.Gain() > lambda) ++item.step;  // of equal cost: fewer bytes
    }
  }

  double BytesInUse() const {
    double bytes = 0;
    for (const Item& item : items_) bytes += (*item.hull)[item.step].bytes;
    return bytes;
  }

  void SpendTheRest() {
    double rest = view_.bytes - BytesInUse();
    std::vector<Item*> order;
    for (Item& item : items_) {
      if (item.CanRise()) order.push_back(&item);
    }
    std::stable_sort(order.begin(), order.end(), [&](const Item* a, const Item* b) {
      if (a->Gain() != b->Gain()) return a->Gain() > b->Gain();
      return view_.rows[a->row].token_from_slot[a->slot] < view_.rows[b->row].token_from_slot[b->slot];
    });
    for (Item* item : order) {
      const double cost = (*item->hull)[item->step + 1].bytes - (*item->hull)[item->step].bytes;
      if (cost > rest) continue;
      ++item->step;
      rest -= cost;
    }
  }

  const SpendingView& view_;
  std::map<std::pair<int, bool>, std::vector<Step>> hulls_;  // by bits now, and whether the entry must stay
  std::vector<Item> items_;
};

class Lambda final : public Allocator {
 public:
  Lambda(double power, double floor, bool by_layer) : power_(power), floor_(floor), by_layer_(by_layer) {}
  bool spends_bits() const override { return true; }

  Bits Spend(const SpendingView& view) const override {
    if (!by_layer_) return SpendTogether(view);
    Bits bits;
    const int num_layers = view.rows.back().layer_index - view.rows.front().layer_index + 1;
    for (size_t begin = 0, end = 0; begin < view.rows.size(); begin = end) {
      SpendingView layer = view;
      layer.rows.clear();
      for (; end < view.rows.size() && view.rows[end].layer_index == view.rows[begin].layer_index; ++end) {
        layer.rows.push_back(view.rows[end]);
      }
      layer.bytes = view.bytes / num_layers;
      for (std::vector<uint8_t>& row : SpendTogether(layer)) bits.push_back(std::move(row));
    }
    return bits;
  }

 private:
  // The floors, unless not even they fit at the lowest bits.
  Bits SpendTogether(const SpendingView& view) const {
    const auto entries = static_cast<int64_t>(std::ceil(floor_ * view.uniform_entries));
    const double fits = view.bytes / (view.entry_bytes.back() * static_cast<double>(view.rows.size()));
    return Search(view, power_,
                  static_cast<int>(std::clamp<double>(static_cast<double>(entries), 1, std::max(1.0, fits))))
        .Run();
  }

  double power_, floor_;
  bool by_layer_;
};

const AllocatorRegistration registration({
    {.name = "lambda",
     .paper_url = "",
     .summary = "bits for each entry by one Lagrange multiplier: relevance times measured distortion against bytes",
     .departs = "after the decision each layer keeps its own bytes"},
    [](Params& params) {
      const double power = params.Real("power", 1, 0.1, 8, "of relevance: 1 errors that add up, 2 independent ones");
      const double floor =
          params.Real("floor", 0.1, 0, 1, "part of its uniform share that every KV head keeps at least");
      const bool by_layer = params.Choice("share", "global", {"global", "layer"},
                                          "one multiplier for all layers, or equal bytes for each") == "layer";
      return std::make_unique<Lambda>(power, floor, by_layer);
    },
});

}  // namespace
}  // namespace kvscope
