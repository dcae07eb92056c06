// SPDX-License-Identifier: Apache-2.0
// Compares the recorded decode rows with rows rebuilt from q, k and lse, in plain double arithmetic that shares no code
// with the decoder. What a row sees: all tokens up to its own, or the last `window` of them. Column statistics can only
// be checked against themselves: each of their rows added one in all.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>

#include "core/trace_reader.h"

namespace kvscope {
namespace {

// Rounding a weight near 1 to half precision moves it by up to 2.5e-4; its row's sum by less than twice that, and each
// weight below half's normal range by up to 3e-8.
constexpr double kMostRowDifference = 5e-4, kMostRebuiltSumError = 1e-4;
double MostRecordedSumError(int num_tokens) {
  return 5e-4 + 3e-8 * num_tokens;
}

std::vector<float> Floats(const Buffer& buffer) {
  std::vector<float> floats(buffer.size());
  if (buffer.dtype() == DType::kF16) {
    FloatsFromHalves(buffer.halves(), floats);
  } else {
    std::copy(buffer.floats().begin(), buffer.floats().end(), floats.begin());
  }
  return floats;
}

// What one head found. `badness` is the largest error as a share of what is allowed.
struct Finding {
  VerifyResult result;
  double badness = 0;

  void Note(double error, double most, double& largest, const LayerInfo& layer, int head, int token) {
    if (std::isnan(error)) error = INFINITY;
    largest = std::max(largest, error);
    if (error / most < badness) return;
    badness = error / most;
    result.worst_place = StrCat("layer ", layer.layer, ", head ", head, ", token ", token);
  }
  void Add(const Finding& other) {
    VerifyResult& sum = result;
    sum.largest_row_difference = std::max(sum.largest_row_difference, other.result.largest_row_difference);
    sum.largest_rebuilt_sum_error = std::max(sum.largest_rebuilt_sum_error, other.result.largest_rebuilt_sum_error);
    sum.largest_recorded_sum_error = std::max(sum.largest_recorded_sum_error, other.result.largest_recorded_sum_error);
    sum.rows_checked += other.result.rows_checked;
    // Ties go to the earlier place, so that the number of threads does not show.
    if (other.badness > badness || (other.badness == badness && other.result.worst_place < sum.worst_place)) {
      sum.worst_place = other.result.worst_place;
    }
    badness = std::max(badness, other.badness);
  }
};

int FirstVisible(const LayerInfo& layer, int token) {
  return layer.window ? std::max(0, token - layer.window + 1) : 0;
}

// A sink takes part of every row's sum, so only an excess is an error.
double SumError(const LayerInfo& layer, double sum) {
  return layer.sink ? std::max(0.0, sum - 1) : std::abs(sum - 1);
}

std::vector<double> Rebuild(const LayerInfo& layer, const KvHeadData& data, const std::vector<float>& q,
                            const std::vector<float>& k, int head_in_group, int row, int token) {
  const size_t dim = layer.head_dim_k, q_row = size_t(head_in_group) * data.num_rows + row;
  const float* query = &q[q_row * dim];
  std::vector<double> weights(token + 1);
  for (int other = FirstVisible(layer, token); other <= token; ++other) {
    const float* key = &k[other * dim];
    double score = 0;
    for (size_t i = 0; i < dim; ++i) score += double(query[i]) * key[i];
    score *= layer.scale;
    if (layer.softcap > 0) score = layer.softcap * std::tanh(score / layer.softcap);
    weights[other] = std::exp(score - data.lse[q_row]);
  }
  return weights;
}

class HeadVerifier {
 public:
  HeadVerifier(const TraceReader& trace, int layer_index, int kv_head_index, int max_rows)
      : trace_(trace),
        layer_index_(layer_index),
        layer_(trace.info().layers[layer_index]),
        first_head_(kv_head_index * layer_.HeadsPerKvHead()),
        max_rows_(max_rows) {
    const TraceLevel level = trace.info().level;
    if (level != TraceLevel::kQkv && level != TraceLevel::kQkvRows) return;
    data_ = trace.ReadKvHead(layer_index, kv_head_index);
    q_ = Floats(data_->q);
    k_ = Floats(data_->k);
  }

  Finding Run() {
    for (int i = 0; i < layer_.HeadsPerKvHead(); ++i) {
      if (data_) CheckSums(i);
      if (trace_.HasRows()) CheckRows(i);
    }
    if (trace_.HasColumns()) CheckColumns();
    return finding_;
  }

 private:
  void CheckSums(int head_in_group) {
    const std::vector<int>& q_token = trace_.q_token(layer_index_);
    const int num_rows = static_cast<int>(q_token.size()), count = std::min(max_rows_, num_rows);
    for (int i = 0; i < count; ++i) {
      const int row = count == 1 ? num_rows - 1 : static_cast<int>(int64_t(i) * (num_rows - 1) / (count - 1));
      NoteSum(Rebuild(layer_, *data_, q_, k_, head_in_group, row, q_token[row]), head_in_group, q_token[row]);
    }
  }

  void CheckColumns() {
    const ColumnStatistics columns = trace_.ReadColumnStatistics(layer_index_);
    for (int i = 0; columns.num_rows && i < layer_.HeadsPerKvHead(); ++i) {
      const size_t first = size_t(first_head_ + i) * columns.num_tokens;
      double sum = 0, largest_excess = 0;  // of a column's max above its sum, or above one
      for (int token = 0; token < columns.num_tokens; ++token) {
        const double most = columns.max[first + token], total = columns.sum[first + token];
        sum += total;
        largest_excess = std::max(largest_excess, most - std::min(total, 1.0));
      }
      const double error = std::max(SumError(layer_, sum / columns.num_rows), largest_excess);
      finding_.Note(error, kMostRebuiltSumError, finding_.result.largest_rebuilt_sum_error, layer_,
                    layer_.heads[first_head_ + i], columns.num_rows - 1);
      finding_.result.rows_checked += columns.num_rows;
    }
  }

  void NoteSum(const std::vector<double>& weights, int head_in_group, int token) {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    finding_.Note(SumError(layer_, sum), kMostRebuiltSumError, finding_.result.largest_rebuilt_sum_error, layer_,
                  layer_.heads[first_head_ + head_in_group], token);
    ++finding_.result.rows_checked;
  }

  void CheckRows(int head_in_group) {
    const int head = layer_.heads[first_head_ + head_in_group];
    const RecordedRows rows = trace_.ReadRows(layer_index_, first_head_ + head_in_group);
    const std::vector<int>& q_token = trace_.q_token(layer_index_);
    for (int step = 0; step < rows.num_steps; ++step) {
      const int token = rows.row_token[step];
      const Half* recorded = &rows.weights[size_t(step) * rows.num_tokens];
      double sum = 0;
      for (int other = 0; other <= token; ++other) sum += FloatFromHalf(recorded[other]);
      finding_.Note(SumError(layer_, sum), MostRecordedSumError(token + 1), finding_.result.largest_recorded_sum_error,
                    layer_, head, token);
      const auto found = std::lower_bound(q_token.begin(), q_token.end(), token);
      if (!data_ || found == q_token.end() || *found != token) {
        ++finding_.result.rows_checked;
        continue;
      }
      const auto row = static_cast<int>(found - q_token.begin());
      const std::vector<double> rebuilt = Rebuild(layer_, *data_, q_, k_, head_in_group, row, token);
      double largest = 0;
      for (int other = 0; other <= token; ++other) {
        const double difference = std::abs(rebuilt[other] - FloatFromHalf(recorded[other]));
        largest = difference <= largest ? largest : difference;  // keeps a NaN
      }
      finding_.Note(largest, kMostRowDifference, finding_.result.largest_row_difference, layer_, head, token);
      NoteSum(rebuilt, head_in_group, token);
    }
  }

  const TraceReader& trace_;
  int layer_index_;
  const LayerInfo& layer_;
  int first_head_, max_rows_;
  std::shared_ptr<const KvHeadData> data_;
  std::vector<float> q_, k_;
  Finding finding_;
};

}  // namespace

VerifyResult VerifyTrace(const TraceReader& trace, int max_rows_per_head) {
  std::vector<std::pair<int, int>> jobs;
  for (size_t layer = 0; layer < trace.info().layers.size(); ++layer) {
    for (size_t kv_head = 0; kv_head < trace.info().layers[layer].kv_heads.size(); ++kv_head) {
      jobs.emplace_back(layer, kv_head);
    }
  }
  Finding all;
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::string failure;
  const auto work = [&] {
    for (size_t job = next++; job < jobs.size(); job = next++) {
      try {
        const Finding finding = HeadVerifier(trace, jobs[job].first, jobs[job].second, max_rows_per_head).Run();
        const std::lock_guard lock(mutex);
        all.Add(finding);
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        failure = error.what();
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (!failure.empty()) throw Error(failure);
  all.result.ok = all.badness < 1;
  return all.result;
}

}  // namespace kvscope
