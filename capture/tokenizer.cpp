// SPDX-License-Identifier: Apache-2.0
#include "capture/tokenizer.h"

#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>

#include "capture/gguf.h"
#include "capture/word_splitter.h"
#include "core/error.h"

namespace kvscope {
namespace {

// GGUF's token types.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4 };

// A vocabulary is stored as printable text: 188 bytes stand for themselves as Latin-1 characters, the other 68 for
// U+0100, U+0101, ... in order. Returns the byte of every character below U+0144, -1 for those that stand for none.
std::array<int, 324> ByteFromCharacter() {
  std::array<int, 324> bytes;
  bytes.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    bytes[static_cast<size_t>(is_printable ? byte : next++)] = byte;
  }
  return bytes;
}

// The bytes that a token's text stands for. Characters outside the alphabet stay as they are.
std::string BytesFromText(std::string_view text) {
  static const std::array<int, 324> kBytes = ByteFromCharacter();
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto first = static_cast<unsigned char>(text[i]);
    size_t character = first;
    size_t length = 1;
    if ((first & 0xE0) == 0xC0 && i + 1 < text.size()) {
      character = (first & 31u) << 6 | (static_cast<unsigned char>(text[i + 1]) & 63u);
      length = 2;
    }
    if (character < kBytes.size() && kBytes[character] >= 0 && (length == 2 || first < 128)) {
      bytes += static_cast<char>(kBytes[character]);
    } else {
      bytes += text.substr(i, length);
    }
    i += length - 1;
  }
  return bytes;
}

// What two neighbouring tokens become, and how early: an open-addressing table, as this look-up is most of the work.
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = kEmpty;
    int rank = 0;
    int joined = 0;
  };

  explicit MergeTable(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    slots_.resize(size);
  }

  void Add(int left, int right, int rank, int joined) {
    Merge& slot = slots_[SlotOf(Pair(left, right))];
    if (slot.pair == kEmpty) slot = {Pair(left, right), rank, joined};  // the first of two equal merges counts
  }

  const Merge* Find(int left, int right) const {
    const Merge& slot = slots_[SlotOf(Pair(left, right))];
    return slot.pair == kEmpty ? nullptr : &slot;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};

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

}  // namespace

struct Tokenizer::Vocabulary {
  struct Special {
    std::string text;
    int id;
    bool is_always_parsed;  // user-defined; control tokens only when asked
  };

  std::string bytes;              // of all tokens, one after another
  std::vector<size_t> begins;     // of each token in `bytes`, and the end
  std::vector<bool> is_special;   // of each token
  std::vector<bool> is_end;       // of each token
  std::array<int, 256> byte_ids;  // -1 where the vocabulary has no token for the byte
  std::vector<Special> specials;  // the longest text first
  MergeTable merges{0};
};

struct Tokenizer::Splitter {
  WordSplitter words;
};

// One symbol of the word being encoded, in a list by position; joined symbols keep the position of the left one.
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
  bool operator<(const Candidate& other) const {  // std::priority_queue takes the greatest first
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

struct Tokenizer::Scratch {
  explicit Scratch(const WordSplitter& words) : match(words) {}
  WordSplitter::Scratch match;
  const char* text_begin = nullptr;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

namespace {

using TextIds = std::unordered_map<std::string_view, int>;

int RequireId(const GgufFile& gguf, const TextIds& id_from_text, std::string_view text, size_t merge) {
  const auto found = id_from_text.find(text);
  if (found != id_from_text.end()) return found->second;
  throw Error(StrCat(gguf.path(), ":tokenizer.ggml.merges[", merge, "]: expected tokens of the vocabulary, found '",
                     Printable(text), "'; tokens and merges disagree, convert the model again"));
}

// Every merge joins two tokens to a third that stands for the bytes of both, which is what makes Decode undo Encode.
MergeTable ReadMerges(const GgufFile& gguf, const TextIds& id_from_text, const Tokenizer& tokenizer) {
  const auto merges = gguf.RequireStringArray("tokenizer.ggml.merges");
  MergeTable table(merges.size());
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
    if (tokenizer.Piece(joined_id) != StrCat(tokenizer.Piece(left_id), tokenizer.Piece(right_id))) {
      throw Error(StrCat(gguf.path(), ":tokenizer.ggml.merges[", i, "]: expected token ", joined_id,
                         " to stand for the bytes of ", left_id, " and ", right_id, ", found '",
                         Printable(tokenizer.Piece(joined_id)), "'; the file is damaged"));
    }
    table.Add(left_id, right_id, static_cast<int>(i), joined_id);
  }
  return table;
}

int OptionalId(const GgufFile& gguf, const char* key, size_t vocab_size) {
  if (!gguf.Has(key)) return -1;
  return static_cast<int>(gguf.RequireIntIn(key, 0, static_cast<int64_t>(vocab_size) - 1));
}

}  // namespace

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::FromGguf(const GgufFile& gguf) {
  const std::string_view model = gguf.RequireString("tokenizer.ggml.model");
  if (model != "gpt2") {
    throw Error(StrCat(gguf.path(), ":tokenizer.ggml.model: expected byte-level BPE ('gpt2'), found '",
                       Printable(model), "'; use a model with such a vocabulary"));
  }
  const auto texts = gguf.RequireStringArray("tokenizer.ggml.tokens");
  const auto types = gguf.IntArray("tokenizer.ggml.token_type").value_or(std::vector<int64_t>(texts.size(), kNormal));
  if (types.size() != texts.size() || texts.empty() || texts.size() > (1u << 28)) {
    throw Error(StrCat(gguf.path(),
                       ":tokenizer.ggml.token_type: expected one type for each of 1 to 2^28 tokens, found ",
                       types.size(), " types and ", texts.size(), " tokens; the file is damaged"));
  }
  Tokenizer tokenizer;
  tokenizer.path_ = gguf.path();
  tokenizer.splitter_.reset(new Splitter{
      WordSplitter(Printable(gguf.RequireString("tokenizer.ggml.pre")), StrCat(gguf.path(), ":tokenizer.ggml.pre"))});
  tokenizer.vocabulary_ = std::make_unique<Vocabulary>();
  Vocabulary& vocabulary = *tokenizer.vocabulary_;
  vocabulary.byte_ids.fill(-1);
  vocabulary.is_end.resize(texts.size());
  TextIds id_from_text;
  for (size_t i = 0; i < texts.size(); ++i) {
    const int id = static_cast<int>(i);
    if (const auto [at, is_new] = id_from_text.emplace(texts[i], id); !is_new) {
      throw Error(StrCat(gguf.path(), ":tokenizer.ggml.tokens: expected every text once, found '", Printable(texts[i]),
                         "' as ", at->second, " and ", id, "; the file is damaged"));
    }
    const bool is_special = types[i] == kControl || types[i] == kUserDefined || types[i] == kUnknown;
    const std::string bytes = is_special ? std::string(texts[i]) : BytesFromText(texts[i]);
    vocabulary.begins.push_back(vocabulary.bytes.size());
    vocabulary.bytes += bytes;
    vocabulary.is_special.push_back(is_special);
    if (is_special && !bytes.empty()) vocabulary.specials.push_back({bytes, id, types[i] == kUserDefined});
    if (!is_special && bytes.size() == 1) vocabulary.byte_ids[static_cast<unsigned char>(bytes[0])] = id;
    if (types[i] == kControl && (bytes == "<|im_end|>" || bytes == "<|endoftext|>" || bytes == "<|eot_id|>")) {
      vocabulary.is_end[i] = true;
    }
  }
  vocabulary.begins.push_back(vocabulary.bytes.size());
  std::stable_sort(vocabulary.specials.begin(), vocabulary.specials.end(),
                   [](const auto& a, const auto& b) { return a.text.size() > b.text.size(); });
  vocabulary.merges = ReadMerges(gguf, id_from_text, tokenizer);

  tokenizer.bos_id_ = OptionalId(gguf, "tokenizer.ggml.bos_token_id", texts.size());
  tokenizer.eos_id_ = OptionalId(gguf, "tokenizer.ggml.eos_token_id", texts.size());
  tokenizer.end_of_turn_id_ = OptionalId(gguf, "tokenizer.ggml.eot_token_id", texts.size());
  if (tokenizer.end_of_turn_id_ < 0) tokenizer.end_of_turn_id_ = tokenizer.eos_id_;
  for (const int id : {tokenizer.eos_id_, tokenizer.end_of_turn_id_}) {
    if (id >= 0) vocabulary.is_end[static_cast<size_t>(id)] = true;
  }
  tokenizer.chat_template_ = gguf.String("tokenizer.chat_template").value_or("");
  return tokenizer;
}

int Tokenizer::VocabSize() const {
  return static_cast<int>(vocabulary_->is_special.size());
}

std::string_view Tokenizer::Piece(int id) const {
  KVSCOPE_CHECK_LE(0, id);
  KVSCOPE_CHECK_LT(id, VocabSize());
  const auto at = static_cast<size_t>(id);
  return std::string_view(vocabulary_->bytes)
      .substr(vocabulary_->begins[at], vocabulary_->begins[at + 1] - vocabulary_->begins[at]);
}

std::string Tokenizer::Decode(std::span<const int> ids) const {
  std::string text;
  for (const int id : ids) text += Piece(id);
  return text;
}

bool Tokenizer::IsSpecial(int id) const {
  return id >= 0 && id < VocabSize() && vocabulary_->is_special[static_cast<size_t>(id)];
}
bool Tokenizer::IsEnd(int id) const {
  return id >= 0 && id < VocabSize() && vocabulary_->is_end[static_cast<size_t>(id)];
}

std::optional<int> Tokenizer::FindSpecial(std::string_view text) const {
  for (const Vocabulary::Special& special : vocabulary_->specials) {
    if (special.text == text) return special.id;
  }
  return std::nullopt;
}

std::vector<int> Tokenizer::Encode(std::string_view text, bool parse_special) const {
  ValidateUtf8(text, "text");
  if (text.size() > size_t{1} << 30) {
    throw Error(StrCat("text: expected at most 1 GiB, found ", text.size(), " bytes; encode it in parts"));
  }
  // Special tokens are cut out one after another, the longest first, so that "<|a|>" wins over "<|" wherever it stands.
  struct Part {
    std::string_view text;
    int id;  // -1: plain text
  };
  std::vector<Part> parts = {{text, -1}};
  for (const Vocabulary::Special& special : vocabulary_->specials) {
    if (!parse_special && !special.is_always_parsed) continue;
    if (text.find(special.text) == std::string_view::npos) continue;
    std::vector<Part> cut;
    for (const Part& part : parts) {
      std::string_view rest = part.text;
      size_t at;
      while (part.id < 0 && (at = rest.find(special.text)) != std::string_view::npos) {
        cut.push_back({rest.substr(0, at), -1});
        cut.push_back({rest.substr(at, special.text.size()), special.id});
        rest.remove_prefix(at + special.text.size());
      }
      cut.push_back({rest, part.id});
    }
    parts = std::move(cut);
  }
  std::vector<int> ids;
  ids.reserve(text.size() / 3 + 1);
  Scratch scratch(splitter_->words);
  scratch.text_begin = text.data();
  for (const Part& part : parts) {
    if (part.id < 0) {
      EncodePlain(part.text, &scratch, &ids);
    } else {
      ids.push_back(part.id);
    }
  }
  return ids;
}

void Tokenizer::EncodePlain(std::string_view text, Scratch* scratch, std::vector<int>* ids) const {
  splitter_->words.ForEachWord(text, &scratch->match, [&](std::string_view word) { EncodeWord(word, scratch, ids); });
}

void Tokenizer::EncodeWord(std::string_view word, Scratch* scratch, std::vector<int>* ids) const {
  std::vector<Symbol>& symbols = scratch->symbols;
  std::vector<Candidate>& heap = scratch->heap;
  symbols.clear();
  heap.clear();
  for (size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    const int at = static_cast<int>(i);
    if (vocabulary_->byte_ids[byte] < 0) {
      throw Error(StrCat("text: expected bytes that the vocabulary of ", path_, " has tokens for, found ",
                         Printable(word.substr(i, 1)), " at byte ", word.data() + i - scratch->text_begin,
                         "; remove that character"));
    }
    symbols.push_back({vocabulary_->byte_ids[byte], at - 1, i + 1 < word.size() ? at + 1 : -1});
  }
  const auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) return;
    const int left_id = symbols[static_cast<size_t>(left)].id, right_id = symbols[static_cast<size_t>(right)].id;
    if (const MergeTable::Merge* merge = vocabulary_->merges.Find(left_id, right_id)) {
      heap.push_back({merge->rank, left, right, left_id, right_id, merge->joined});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  for (size_t i = 1; i < symbols.size(); ++i) consider(static_cast<int>(i) - 1, static_cast<int>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    Symbol& right = symbols[static_cast<size_t>(best.right)];
    if (left.id != best.left_id || right.id != best.right_id || left.next != best.right) continue;
    left.id = best.joined;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (int at = symbols.empty() ? -1 : 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
    ids->push_back(symbols[static_cast<size_t>(at)].id);
  }
}

void ValidateUtf8(std::string_view text, std::string_view place) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  const size_t size = text.size();
  for (size_t i = 0; i < size;) {
    const unsigned char first = bytes[i];
    if (first < 0x80) {
      ++i;
      continue;
    }
    const size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    const unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    bool is_valid = length > 0 && length <= size - i && bytes[i + 1] >= low && bytes[i + 1] <= high;
    for (size_t k = 2; is_valid && k < length; ++k) is_valid = (bytes[i + k] & 0xC0) == 0x80;
    if (!is_valid) {
      throw Error(StrCat(place, ": expected UTF-8 text, found ", Printable(text.substr(i, 1)), " at byte ", i,
                         "; convert the text to UTF-8, for example with iconv"));
    }
    i += length;
  }
}

std::vector<int64_t> ByteOffsets(const Tokenizer& tokenizer, std::span<const int> ids) {
  std::vector<int64_t> offsets = {0};
  for (const int id : ids) offsets.push_back(offsets.back() + static_cast<int64_t>(tokenizer.Piece(id).size()));
  return offsets;
}

TokenRange TokensCovering(std::span<const int64_t> byte_offsets, int64_t byte_begin, int64_t byte_end) {
  KVSCOPE_CHECK(!byte_offsets.empty());
  KVSCOPE_CHECK_LE(0, byte_begin);
  KVSCOPE_CHECK_LE(byte_begin, byte_end);
  KVSCOPE_CHECK_LE(byte_end, byte_offsets.back());
  // The first token: the last one that begins at or before byte_begin. The end: the first that begins at or after the
  // end.
  const auto first =
      std::upper_bound(byte_offsets.begin(), byte_offsets.end() - 1, byte_begin) - byte_offsets.begin() - 1;
  const auto end = std::lower_bound(byte_offsets.begin(), byte_offsets.end(), byte_end) - byte_offsets.begin();
  const int64_t token_begin = std::max<int64_t>(first, 0);
  return {token_begin, byte_begin == byte_end ? token_begin : end};
}

}  // namespace kvscope
