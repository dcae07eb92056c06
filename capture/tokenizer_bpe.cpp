// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer_bpe.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace kvscope {
namespace {

using TextIds = std::unordered_map<std::string_view, int>;

int RequireId(const GgufFile& gguf, const TextIds& id_from_text, std::string_view text, size_t merge) {
  const auto found = id_from_text.find(text);
  if (found != id_from_text.end()) return found->second;
  throw Error(StrCat(gguf.path(), ":tokenizer.ggml.merges[", merge, "]: expected tokens of the vocabulary, found '",
                     Printable(text), "'; tokens and merges disagree, convert the model again"));
}

}  // namespace

MergeTable::MergeTable(size_t count) {
  size_t size = 16;
  while (size < count * 2) size *= 2;
  slots_.resize(size);
}

void MergeTable::Add(int left, int right, int rank, int joined) {
  Merge& slot = slots_[SlotOf(Pair(left, right))];
  if (slot.pair == kEmpty) slot = {Pair(left, right), rank, joined};
}

BytePairJoiner::BytePairJoiner(const GgufFile& gguf, const Vocabulary& vocabulary)
    : vocabulary_(vocabulary), words_(Printable(vocabulary.pre_tokenizer), StrCat(gguf.path(), ":tokenizer.ggml.pre")) {
  byte_ids_.fill(-1);
  for (int id = 0; id < vocabulary.size(); ++id) {
    const std::string_view piece = vocabulary.Piece(id);
    if (piece.size() == 1 && !vocabulary.is_special[static_cast<size_t>(id)])
      byte_ids_[static_cast<unsigned char>(piece[0])] = id;
  }
  const std::vector<std::string_view> texts = gguf.RequireStringArray("tokenizer.ggml.tokens");
  ReadMerges(gguf, texts);
  if (!words_.takes_whole_words()) return;
  for (size_t i = 0; i < texts.size(); ++i) {
    bool is_alphabet = false;
    std::string bytes = BytesFromText(texts[i], &is_alphabet);
    if (is_alphabet) whole_words_.emplace(std::move(bytes), static_cast<int>(i));
  }
}

// Every merge joins two tokens to a third that stands for the bytes of both, which is what makes Decode undo Encode.
void BytePairJoiner::ReadMerges(const GgufFile& gguf, const std::vector<std::string_view>& texts) {
  TextIds id_from_text;
  for (size_t i = 0; i < texts.size(); ++i) id_from_text.emplace(texts[i], static_cast<int>(i));
  const auto merges = gguf.RequireStringArray("tokenizer.ggml.merges");
  merges_ = MergeTable(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    if (space == std::string_view::npos) {
      throw Error(StrCat(gguf.path(), ":tokenizer.ggml.merges[", i,
                         "]: expected two texts with a space between, found '", Printable(merges[i]),
                         "'; the file is damaged"));
    }
    const std::string_view left = merges[i].substr(0, space), right = merges[i].substr(space + 1);
    const std::string joined = StrCat(left, right);
    const int left_id = RequireId(gguf, id_from_text, left, i), right_id = RequireId(gguf, id_from_text, right, i);
    const int joined_id = RequireId(gguf, id_from_text, joined, i);
    if (vocabulary_.Piece(joined_id) != StrCat(vocabulary_.Piece(left_id), vocabulary_.Piece(right_id))) {
      throw Error(StrCat(gguf.path(), ":tokenizer.ggml.merges[", i, "]: expected token ", joined_id,
                         " to stand for the bytes of ", left_id, " and ", right_id, ", found '",
                         Printable(vocabulary_.Piece(joined_id)), "'; the file is damaged"));
    }
    merges_.Add(left_id, right_id, static_cast<int>(i), joined_id);
  }
}

void BytePairJoiner::Encode(std::string_view text, size_t offset, Scratch* scratch, Encoding* encoding) const {
  words_.ForEachWord(text, &scratch->match_, [&](std::string_view word) {
    EncodeWord(word, offset + static_cast<size_t>(word.data() - text.data()), scratch, encoding);
  });
}

void BytePairJoiner::EncodeWord(std::string_view word, size_t offset, Scratch* scratch, Encoding* encoding) const {
  if (!whole_words_.empty()) {
    if (const auto whole = whole_words_.find(word); whole != whole_words_.end())
      return encoding->Add(whole->second, offset);
  }
  std::vector<Scratch::Symbol>& symbols = scratch->symbols_;
  std::vector<Scratch::Candidate>& heap = scratch->heap_;
  symbols.clear();
  heap.clear();
  for (size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    const int at = static_cast<int>(i);
    if (byte_ids_[byte] < 0) FailWithoutByte(vocabulary_, word[i], offset + i);
    symbols.push_back({byte_ids_[byte], at - 1, i + 1 < word.size() ? at + 1 : -1});
  }
  const auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) return;
    const int left_id = symbols[static_cast<size_t>(left)].id, right_id = symbols[static_cast<size_t>(right)].id;
    if (const MergeTable::Merge* merge = merges_.Find(left_id, right_id)) {
      heap.push_back({merge->rank, left, right, left_id, right_id, merge->joined});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  for (size_t i = 1; i < symbols.size(); ++i) consider(static_cast<int>(i) - 1, static_cast<int>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[static_cast<size_t>(best.left)];
    Scratch::Symbol& right = symbols[static_cast<size_t>(best.right)];
    if (left.id != best.left_id || right.id != best.right_id || left.next != best.right) continue;
    left.id = best.joined;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (int at = symbols.empty() ? -1 : 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
    encoding->Add(symbols[static_cast<size_t>(at)].id, offset + static_cast<size_t>(at));
  }
}

}  // namespace kvscope
