// The only file that sees yaml-cpp. Its event interface is used rather than its tree: the tree accepts
// duplicate keys silently and shares alias nodes, so that a small file can unfold to billions of them.
#include "train/config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>

#include "data/utf8.h"
#include "kernels/error.h"

namespace jambalaya {

namespace {

struct Stop {
  std::string problem;
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(std::string source, ConfigProblems& problems)
      : source_(std::move(source)), problems_(problems) {}
  YamlNode root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    leaf(mark, "", anchor, YamlNode::Kind::null, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Stop{cat(place(mark),
                   ": aliases (*name) are not supported; write the value out, or share it with extends:")};
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    leaf(mark, tag, anchor, YamlNode::Kind::scalar, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  // A container under construction; in a map, scalars are keys and values in turn.
  struct Level {
    YamlNode node;
    bool have_key = false, skip = false;
    std::string key, key_place;
  };

  std::string place(const YAML::Mark& mark) const {
    return cat(source_, ":", mark.line + 1, ":", mark.column + 1);
  }

  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0)
      throw Stop{cat(place(mark),
                     ": anchors (&name) are not supported; write the value out, or share it with extends:")};
    // "?" and "" are untagged, "!" is yaml-cpp's mark of a quoted scalar.
    if (!tag.empty() && tag != "?" && tag != "!")
      throw Stop{cat(place(mark), ": tags (", tag, ") are not supported")};
    if (++nodes_ > kMaxConfigNodes)
      throw Stop{cat(place(mark), ": more than ", kMaxConfigNodes, " values in one config")};
    if (int(levels_.size()) > kMaxConfigDepth)
      throw Stop{cat(place(mark), ": nested deeper than ", kMaxConfigDepth, " levels")};
  }
  void leaf(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind,
            const std::string& text) {
    check(mark, tag, anchor);
    if (!levels_.empty() && levels_.back().node.kind == YamlNode::Kind::map && !levels_.back().have_key) {
      take_key(mark, text);
      return;
    }
    YamlNode node;
    node.kind = kind;
    node.text = text;
    node.quoted = tag == "!";
    node.place = place(mark);
    attach(std::move(node));
  }
  void take_key(const YAML::Mark& mark, const std::string& key) {
    Level& level = levels_.back();
    level.have_key = true;
    level.key = key;
    level.key_place = place(mark);
    if (key == "<<")
      throw Stop{
          cat(place(mark), ": merge keys (<<) are not supported; take another file as base with extends:")};
    for (const auto& entry : level.node.entries) {
      if (entry.key != key) continue;
      problems_.push_back(
          cat(place(mark), ": duplicate key '", key, "' (first at ", entry.place, "); keep one of them"));
      level.skip = true;
    }
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind) {
    check(mark, tag, anchor);
    if (!levels_.empty() && levels_.back().node.kind == YamlNode::Kind::map && !levels_.back().have_key)
      throw Stop{cat(place(mark), ": a key must be a plain word")};
    Level level;
    level.node.kind = kind;
    level.node.place = place(mark);
    levels_.push_back(std::move(level));
  }
  void close() {
    YamlNode node = std::move(levels_.back().node);
    levels_.pop_back();
    attach(std::move(node));
  }
  void attach(YamlNode node) {
    if (levels_.empty()) {
      root = std::move(node);
      return;
    }
    Level& level = levels_.back();
    if (level.node.kind == YamlNode::Kind::list) {
      level.node.items.push_back(std::move(node));
      return;
    }
    if (!level.skip) level.node.entries.push_back({level.key, level.key_place, std::move(node)});
    level.have_key = level.skip = false;
  }

  std::string source_;
  ConfigProblems& problems_;
  std::vector<Level> levels_;
  int nodes_ = 0;
};

std::string place_of_byte(const std::string& text, const std::string& source, size_t at) {
  const auto begin = text.begin(), end = text.begin() + std::ptrdiff_t(at);
  const auto line = std::count(begin, end, '\n') + 1;
  const size_t start = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
  return cat(source, ":", int64_t(line), ":", int64_t(start == std::string::npos ? at : at - start - 1) + 1);
}

}  // namespace

YamlNode parse_yaml(const std::string& text, const std::string& source, ConfigProblems& problems) {
  const auto give_up = [&](const std::string& problem) {
    problems.push_back(problem);
    return YamlNode();
  };
  if (text.size() > kMaxConfigBytes)
    return give_up(cat(source, ": ", text.size(), " bytes; a config has at most ", kMaxConfigBytes));
  if (const size_t at = find_invalid_utf8(text); at != std::string::npos)
    return give_up(cat(place_of_byte(text, source, at), ": not valid UTF-8"));
  if (const size_t at = text.find('\0'); at != std::string::npos)
    return give_up(cat(place_of_byte(text, source, at), ": a NUL byte"));
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    TreeBuilder builder(source, problems);
    parser.HandleNextDocument(builder);
    TreeBuilder rest(source, problems);
    if (parser.HandleNextDocument(rest))
      return give_up(cat(source, ": more than one YAML document (---) in a config"));
    return std::move(builder.root);
  } catch (const Stop& stop) {
    return give_up(stop.problem);
  } catch (const YAML::Exception& e) {
    return give_up(cat(source, ":", e.mark.line + 1, ":", e.mark.column + 1, ": ", e.msg));
  }
}

std::string quote_yaml(const std::string& text) {
  static const char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += cat("\\", c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7f)
      out += cat("\\x", hex[byte >> 4], hex[byte & 15]);
    else
      out += c;
  }
  return out + "\"";
}

}  // namespace jambalaya
