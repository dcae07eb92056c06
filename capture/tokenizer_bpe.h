// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding: cut into words, every byte of a word a token, then join the neighbours with the lowest
// merge rank until none can be joined (Sennrich et al. 2016, arXiv:1508.07909). Internal to the tokenizer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "capture/gguf.h"
#include "capture/tokenizer.h"
#include "capture/tokenizer_vocabulary.h"
#include "capture/word_splitter.h"

namespace kvscope {

// What two neighbouring tokens become, and how early: an open-addressing table, as this look-up is most of the work.
class MergeTable {
 public:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Merge {
    uint64_t pair = kEmpty;
    int rank = 0;
    int joined = 0;
  };

  explicit MergeTable(size_t count);
  void Add(int left, int right, int rank, int joined);  // the first of two equal merges counts
  const Merge* Find(int left, int right) const {
    const Merge& slot = slots_[SlotOf(Pair(left, right))];
    return slot.pair == kEmpty ? nullptr : &slot;
  }

 private:
  static uint64_t Pair(int left, int right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t SlotOf(uint64_t pair) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = (pair * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (slots_[slot].pair != kEmpty && slots_[slot].pair != pair) slot = (slot + 1) & mask;
    return slot;
  }

  std::vector<Merge> slots_;
};

class BytePairJoiner {
 public:
  // `vocabulary` must outlive this. Error when merges and tokens disagree, or the pre-tokenizer is not known.
  BytePairJoiner(const GgufFile& gguf, const Vocabulary& vocabulary);

  // Working memory of one call after another; one for each thread.
  class Scratch {
   public:
    explicit Scratch(const BytePairJoiner& joiner) : match_(joiner.words_) {}

   private:
    friend class BytePairJoiner;
    // One symbol of the word, in a list by position; joined symbols keep the position of the left one.
    struct Symbol {
      int id;  // -1 when joined away
      int previous;
      int next;  // -1 at the end
    };
    // A pair that may be joined: the lowest rank first, then the leftmost.
    struct Candidate {
      int rank;
      int left;  // positions
      int right;
      int left_id;  // as they were; the candidate is out of date when a symbol changed since
      int right_id;
      int joined;
      bool operator<(const Candidate& other) const {  // a heap has its greatest first
        return rank != other.rank ? rank > other.rank : left > other.left;
      }
    };
    WordSplitter::Scratch match_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
  };

  // Appends the tokens of a text without special tokens that begins at byte `offset` of the whole.
  void Encode(std::string_view text, size_t offset, Scratch* scratch, Encoding* encoding) const;

 private:
  void ReadMerges(const GgufFile& gguf, const std::vector<std::string_view>& texts);
  void EncodeWord(std::string_view word, size_t offset, Scratch* scratch, Encoding* encoding) const;

  const Vocabulary& vocabulary_;
  WordSplitter words_;
  std::array<int, 256> byte_ids_;  // -1 where the vocabulary has no token for the byte
  MergeTable merges_{0};
  IdFromText whole_words_;  // words taken as they are, where the pre-tokenizer says so
};

}  // namespace kvscope
