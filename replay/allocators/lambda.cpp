// SPDX-License-Identifier: Apache-2.0
// One Lagrange multiplier over bits: every entry takes the bits b, not above those it has, that make
//   priority^power * D(b) + lambda * bytes(b)
// least; lambda is the smallest at which the bytes hold. D(0) = 1 for a dropped entry; D(b) is measured on the prompt
// in every layer (scope=kv_head: KV head), and bits whose D reaches 1 are not given, unless they are the most on offer.
// On the lower convex hull of (bytes, D) this is a rule of thresholds, with one number in place of one per step. What
// is left over is spent on the promotions that gain most per byte, so that less than one entry's bytes stay unspent.
//
// Paper    none: ADKVC's own rule, from rate-distortion theory.
// Rule     share=global: one lambda for all layers, and the `floor` most relevant of each layer's uniform share keep at
//          least the lowest bits; share=layer: equal bytes and an own lambda for each layer. After the decision a layer
//          keeps the bytes that the decision gave it, so that layers need not wait for each other.
//          ladder=16-4: only these bits; drop=last: nothing goes while everything fits at the lowest bits.
// Test     tests/replay/policies/bit_allocators_test.cpp
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <sstream>
#include <string>

#include "replay/allocators/bit_math.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

bool IsOffered(std::span<const uint8_t> allowed, int bits) {
  return std::find(allowed.begin(), allowed.end(), bits) != allowed.end();
}

// One way to keep an entry.
struct Step {
  uint8_t bits = 0;
  double bytes = 0, distortion = 1;
};

// The lower convex hull of an entry's steps: bytes ascending, distortion falling, each step gaining less per byte than
// the one before.
struct Hull {
  std::vector<Step> steps;
  std::vector<double> gain;  // [step] per byte, of going to the next, for an entry of weight 1
};

// What an entry of `highest` bits can be kept in: of the bits on offer those whose D is below 1, and the most of them
// whatever its D. Ascending by bits, never empty.
std::vector<Step> StepsUpTo(const SpendingView& view, std::span<const double> distortion,
                            std::span<const uint8_t> allowed, int highest) {
  constexpr double kAlmostNothing = 0.999;
  std::vector<Step> steps;
  for (size_t i = 0; i < view.ladder.size(); ++i) {  // descending bits
    if (view.ladder[i] > highest || !IsOffered(allowed, view.ladder[i])) continue;
    const double harm = steps.empty() ? std::min(distortion[i], kAlmostNothing) : distortion[i];
    if (harm < 1) steps.push_back({view.ladder[i], view.entry_bytes[i], harm});
  }
  if (steps.empty()) {  // it has fewer bits than are on offer: it stays as it is
    const size_t i = LadderIndex(view.ladder, highest);
    steps.push_back({view.ladder[i], view.entry_bytes[i], std::min(distortion[i], kAlmostNothing)});
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

// The first step is to be dropped where that is allowed.
Hull HullOf(std::vector<Step> steps, bool may_drop) {
  if (may_drop) steps.insert(steps.begin(), Step{});
  Hull hull;
  const auto gain = [](const Step& from, const Step& to) {
    return (from.distortion - to.distortion) / (to.bytes - from.bytes);
  };
  for (const Step& step : steps) {
    std::vector<Step>& chosen = hull.steps;
    if (!chosen.empty() && (step.distortion >= chosen.back().distortion || step.bytes <= chosen.back().bytes)) continue;
    while (chosen.size() >= 2 && gain(chosen.back(), step) >= gain(chosen[chosen.size() - 2], chosen.back())) {
      chosen.pop_back();
    }
    chosen.push_back(step);
  }
  for (size_t i = 0; i + 1 < hull.steps.size(); ++i) hull.gain.push_back(gain(hull.steps[i], hull.steps[i + 1]));
  return hull;
}

struct LambdaParameters {
  double power = 1, floor = 0.1;
  Harm harm = Harm::kCapped;
  bool by_layer = false, drops_last = false;
  std::vector<uint8_t> ladder;
};

class Search {
 public:
  // floor_entries: of a row that must stay.
  Search(const SpendingView& view, const LambdaParameters& parameters, size_t floor_entries) : view_(view) {
    for (size_t row = 0; row < view.rows.size(); ++row) {
      const SpendingView::Row& slots = view.rows[row];
      std::vector<int> order;
      for (size_t slot = 0; slot < slots.bits_now.size(); ++slot) {
        if (slots.bits_now[slot] > 0) order.push_back(static_cast<int>(slot));
      }
      if (floor_entries < order.size()) {  // those that must stay come first; of equal priority the lower token
        std::nth_element(
            order.begin(), order.begin() + static_cast<int64_t>(floor_entries), order.end(), [&](int a, int b) {
              return slots.priority[a] != slots.priority[b] ? slots.priority[a] > slots.priority[b] : a < b;
            });
      }
      std::array<std::array<const Hull*, 33>, 2> hulls{};  // of the row, by whether the entry may go and its bits
      for (size_t rank = 0; rank < order.size(); ++rank) {
        const int slot = order[rank], bits = slots.bits_now[slot];
        const bool may_drop = rank >= floor_entries;
        const Hull*& hull = hulls[may_drop].at(bits);
        if (!hull)
          hull = &hulls_.emplace_back(HullOf(StepsUpTo(view, slots.distortion, parameters.ladder, bits), may_drop));
        double weight = std::max(0.0, double{slots.priority[slot]});
        if (parameters.power != 1) weight = std::pow(weight, parameters.power);
        items_.push_back({weight, hull, 0, static_cast<int>(row), slot});
      }
    }
  }

  Bits Run() {
    for (Item& item : items_) item.step = item.hull->steps.size() - 1;
    if (BytesInUse() > view_.bytes) {
      FindLambda();
      SpendTheRest();
    }
    Bits bits;
    for (const SpendingView::Row& row : view_.rows) bits.emplace_back(row.priority.size());
    for (const Item& item : items_) bits[item.row][item.slot] = item.Now().bits;
    return bits;
  }

 private:
  static constexpr int kIterations = 60;
  struct Item {
    double weight = 0;
    const Hull* hull = nullptr;
    size_t step = 0;
    int row = 0, slot = 0;
    const Step& Now() const { return hull->steps[step]; }
    bool CanRise() const { return step + 1 < hull->steps.size(); }
    size_t StepAt(double lambda) const {  // of equal cost: fewer bytes
      const std::vector<double>& gain = hull->gain;
      return std::find_if(gain.begin(), gain.end(), [&](double g) { return weight * g <= lambda; }) - gain.begin();
    }
    double Gain() const { return weight * hull->gain[step]; }  // of rising, per byte
    double Cost() const { return hull->steps[step + 1].bytes - Now().bytes; }
  };

  // An item whose step at lambda is not known yet: between its step at the high end (item->step) and at the low end.
  struct Open {
    Item* item = nullptr;
    size_t step_at_low = 0, step_at_middle = 0;
    bool IsSettled() const { return step_at_low == item->step; }
  };

  // Bisects log lambda until what is left over is less than any step costs. Items that have the same step at both ends
  // are settled, so that later rounds look at few.
  void FindLambda() {
    double highest_gain = 0, lowest_gain = std::numeric_limits<double>::infinity(), settled_bytes = 0;
    double least_cost = view_.bytes;
    std::vector<Open> open;
    for (Item& item : items_) {
      open.push_back({&item, item.step});
      item.step = 0;
      if (!item.CanRise()) continue;
      highest_gain = std::max(highest_gain, item.Gain());
      if (item.weight > 0) lowest_gain = std::min(lowest_gain, item.weight * item.hull->gain.back());
    }
    for (const Hull& hull : hulls_) {
      for (size_t i = 0; i + 1 < hull.steps.size(); ++i) {
        least_cost = std::min(least_cost, hull.steps[i + 1].bytes - hull.steps[i].bytes);
      }
    }
    double high = std::log(std::max(highest_gain, 1e-300)) + 1;                      // nothing rises
    double low = std::min(high - 200, std::log(std::max(lowest_gain, 1e-300)) - 1);  // everything does
    for (int i = 0; i < kIterations; ++i) {
      const double middle = (low + high) / 2, lambda = std::exp(middle);
      double rest = view_.bytes - settled_bytes;
      for (Open& at : open) {
        at.step_at_middle = at.item->StepAt(lambda);
        rest -= at.item->hull->steps[at.step_at_middle].bytes;
      }
      (rest < 0 ? low : high) = middle;
      for (Open& at : open) {
        (rest < 0 ? at.step_at_low : at.item->step) = at.step_at_middle;
        if (at.IsSettled()) settled_bytes += at.item->Now().bytes;
      }
      std::erase_if(open, [](const Open& at) { return at.IsSettled(); });
      if (rest >= 0 && rest < least_cost) return;
    }
  }

  double BytesInUse() const {
    double bytes = 0;
    for (const Item& item : items_) bytes += item.Now().bytes;
    return bytes;
  }

  void SpendTheRest() {
    struct Rise {
      double gain;
      int token;
      Item* item;
    };
    double rest = view_.bytes - BytesInUse();
    std::vector<Rise> rises;
    for (Item& item : items_) {
      if (!item.CanRise() || item.Cost() > rest) continue;
      rises.push_back({item.Gain(), view_.rows[item.row].token_from_slot[item.slot], &item});
    }
    std::stable_sort(rises.begin(), rises.end(), [](const Rise& a, const Rise& b) {
      return a.gain != b.gain ? a.gain > b.gain : a.token < b.token;
    });
    for (const Rise& rise : rises) {
      if (rise.item->Cost() > rest) continue;
      rest -= rise.item->Cost();
      ++rise.item->step;
    }
  }

  const SpendingView& view_;
  std::deque<Hull> hulls_;
  std::vector<Item> items_;
};

class Lambda final : public Allocator {
 public:
  explicit Lambda(const LambdaParameters& parameters) : parameters_(parameters) {}
  bool spends_bits() const override { return true; }
  Harm harm() const override { return parameters_.harm; }

  Bits Spend(const SpendingView& view) const override {
    if (!parameters_.by_layer) return SpendTogether(view);
    Bits bits;
    int num_layers = 1;
    for (size_t row = 1; row < view.rows.size(); ++row)
      num_layers += view.rows[row].layer_index != view.rows[row - 1].layer_index;
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
  Bits SpendTogether(const SpendingView& view) const {
    double floor = std::ceil(parameters_.floor * view.uniform_entries);
    if (parameters_.drops_last) floor = std::numeric_limits<int>::max();
    return Search(view, parameters_, static_cast<size_t>(std::max(1.0, std::min(floor, MostThatFit(view))))).Run();
  }

  // Of each row, when all entries of every row that has fewer stay.
  double MostThatFit(const SpendingView& view) const {
    std::vector<std::pair<size_t, double>> rows;  // entries, bytes of the lowest bits
    double bytes_of_one = 0, rest = view.bytes;   // of one more entry in every row
    for (const SpendingView::Row& row : view.rows) {
      const auto gone = std::count(row.bits_now.begin(), row.bits_now.end(), 0);
      const double lowest = StepsUpTo(view, row.distortion, parameters_.ladder, view.ladder[0]).front().bytes;
      rows.emplace_back(row.bits_now.size() - gone, lowest);
      bytes_of_one += lowest;
    }
    std::sort(rows.begin(), rows.end());
    size_t most = 0;
    for (const auto& [entries, lowest] : rows) {
      const double more = static_cast<double>(entries - most);
      if (more * bytes_of_one > rest) return static_cast<double>(most) + std::floor(rest / bytes_of_one);
      rest -= more * bytes_of_one;
      most = entries;
      bytes_of_one -= lowest;
    }
    return static_cast<double>(most);
  }

  LambdaParameters parameters_;
};

Harm HarmFromText(const std::string& text) {
  return text == "capped" ? Harm::kCapped : text == "output" ? Harm::kOutput : Harm::kRelative;
}

std::vector<uint8_t> BitsFromText(const std::string& text) {
  std::vector<uint8_t> bits;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, '-');) bits.push_back(static_cast<uint8_t>(std::stoi(part)));
  return bits;
}

const AllocatorRegistration registration({
    {.name = "lambda",
     .paper_url = "",
     .summary = "bits for each entry by one Lagrange multiplier: relevance times measured distortion against bytes",
     .departs = "after the decision each layer keeps its own bytes"},
    [](Params& params) {
      LambdaParameters parameters;
      parameters.power = params.Real("power", 1, 0.1, 8, "of relevance: 1 errors that add up, 2 independent ones");
      parameters.floor = params.Real("floor", 0.1, 0, 1, "part of its uniform share that every KV head keeps at least");
      parameters.harm = HarmFromText(params.Choice("harm", "capped", {"capped", "relative", "output"},
                                                   "of fewer bits: relative error of the entry, 1 where its score is "
                                                   "off by 1; without that cap; to the head's output"));
      parameters.by_layer = params.Choice("share", "global", {"global", "layer"},
                                          "one multiplier for all layers, or equal bytes for each") == "layer";
      parameters.ladder = BitsFromText(params.Choice(
          "ladder", "16-8-4-2",
          {"16-8-4-2", "16-8-4", "16-8", "16-4-2", "16-4", "16-2", "16", "8-4-2", "8-4", "8", "4"}, "bits on offer"));
      parameters.drops_last =
          params.Choice("drop", "any", {"any", "last"}, "last: only what does not fit at the lowest bits") == "last";
      return std::make_unique<Lambda>(parameters);
    },
});

}  // namespace
}  // namespace kvscope
