// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer_spm.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"

namespace kvscope {
namespace {

// In a list; joined symbols keep the place of the left one.
struct Symbol {
  int begin;   // in the text with spaces
  int size;    // bytes there; 0 when joined away
  int source;  // where it begins in the text as given
  int id;      // -1: no token
  int previous;
  int next;  // -1 at the end
};

// Two symbols that may be joined; out of date when their bytes no longer add up to `size`.
struct Candidate {
  float score;
  int left;
  int right;
  int size;
  int joined;
  bool operator<(const Candidate& other) const {  // a heap has its greatest first
    return score != other.score ? score < other.score : left > other.left;
  }
};

int CharacterBytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace

SentencePieceJoiner::SentencePieceJoiner(const GgufFile& gguf, const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  byte_ids_.fill(-1);
  const std::vector<std::string_view> texts = gguf.RequireStringArray("tokenizer.ggml.tokens");
  for (int id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = texts[static_cast<size_t>(id)];
    if (vocabulary.kinds[static_cast<size_t>(id)] == TokenKind::kByte) {
      byte_ids_[static_cast<unsigned char>(vocabulary.Piece(id)[0])] = id;
    } else if (!text.empty() && text.find(' ') == std::string_view::npos) {  // a text that is given has no real space
      longest_ = std::max(longest_, text.size());
      id_from_text_.emplace(WithSpaces(text), id);
    }
  }
  if (Find(" ") < 0) {
    throw Error(StrCat(gguf.path(), ":tokenizer.ggml.tokens: expected a token for a space (U+2581), found none; ",
                       "convert the model again"));
  }
}

int SentencePieceJoiner::Find(std::string_view text) const {
  if (text.size() > longest_) return -1;
  const auto found = id_from_text_.find(text);
  return found == id_from_text_.end() ? -1 : found->second;
}

void SentencePieceJoiner::Encode(std::string_view text, size_t offset, bool has_dummy_space, Encoding* encoding) const {
  std::string spaced = has_dummy_space ? " " : "";
  std::vector<Symbol> symbols;
  symbols.reserve(text.size() + 1);
  const auto add_symbol = [&](size_t begin, size_t source) {
    const int at = static_cast<int>(symbols.size());
    const std::string_view character = std::string_view(spaced).substr(begin);
    symbols.push_back({static_cast<int>(begin), static_cast<int>(character.size()), static_cast<int>(source),
                       Find(character), at - 1, at + 1});
  };
  if (has_dummy_space) add_symbol(0, 0);
  for (size_t i = 0; i < text.size();) {
    const std::string_view character = text.substr(i, static_cast<size_t>(CharacterBytes(text[i])));
    const size_t begin = spaced.size();
    spaced += character == kSpaceSign ? std::string_view(" ") : character;
    add_symbol(begin, i);
    i += character.size();
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  std::vector<Candidate> heap;
  const auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) return;
    const Symbol& first = symbols[static_cast<size_t>(left)];
    const int size = first.size + symbols[static_cast<size_t>(right)].size;
    const int id = Find(std::string_view(spaced).substr(static_cast<size_t>(first.begin), static_cast<size_t>(size)));
    if (id < 0) return;
    heap.push_back({vocabulary_.scores[static_cast<size_t>(id)], left, right, size, id});
    std::push_heap(heap.begin(), heap.end());
  };
  for (size_t i = 1; i < symbols.size(); ++i) consider(static_cast<int>(i) - 1, static_cast<int>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    Symbol& right = symbols[static_cast<size_t>(best.right)];
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size = best.size;
    left.id = best.joined;
    left.next = right.next;
    right.size = 0;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }

  for (int at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
    const Symbol& symbol = symbols[static_cast<size_t>(at)];
    const size_t begin = offset + static_cast<size_t>(symbol.source);
    if (symbol.id >= 0) {
      encoding->Add(symbol.id, begin);
      continue;
    }
    for (size_t i = 0; i < static_cast<size_t>(symbol.size); ++i) {
      const char byte = spaced[static_cast<size_t>(symbol.begin) + i];
      const int id = byte_ids_[static_cast<unsigned char>(byte)];
      if (id < 0) FailWithoutByte(vocabulary_, byte, begin + i);
      encoding->Add(id, begin + i);
    }
  }
}

}  // namespace kvscope
