#include "train/report/run_tables.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "train/machine.h"
#include "train/report/html.h"
#include "train/report/scale.h"
#include "train/report/time_account.h"

namespace jambalaya {

namespace {

std::string figure(double v) { return std::isfinite(v) ? short_text(v) : ""; }

int64_t steps_of_plan(const RunData& run) {
  int64_t steps = run.steps;
  for (const Json& line : run.journal)
    if (const Json* planned = line.find("steps")) steps = planned->integer;
  return steps;
}

std::string tile(const std::string& value, const std::string& what) {
  return value.empty() ? ""
                       : cat("<div class=\"tile\"><b>", escape_markup(value), "</b><span>",
                             escape_markup(what), "</span></div>\n");
}

std::string smallest(const RunData& run, const char* name) {
  double least = std::nan("");
  for (const auto& [step, value] : run.of(name)) least = std::fmin(least, value);
  return figure(least);
}

/// Of many, so many evenly spread, the first and last among them.
template <class T>
std::vector<T> chosen(const std::vector<T>& all, size_t most) {
  if (all.size() <= most) return all;
  std::vector<T> some;
  for (size_t i = 0; i < most; i++) some.push_back(all[i * (all.size() - 1) / (most - 1)]);
  return some;
}

std::string time_bar(const TimeAccount& account) {
  constexpr double kWidth = 880;
  std::string s =
      cat("<svg class=\"chart wide\" role=\"img\" aria-label=\"shares of the time\" viewBox=\"0 0 ", kWidth,
          " 22\">\n");
  double at = 0;
  for (size_t i = 0; i < account.shares.size(); i++) {
    const double width = kWidth * account.shares[i].seconds / account.total;
    if (width > 0)
      s += cat("<rect class=\"bar c", i, "\" x=\"", coordinate(at), "\" width=\"", coordinate(width),
               "\" height=\"22\"/>");
    at += width;
  }
  return s + "\n</svg>\n";
}

}  // namespace

std::string state_of(const RunData& run) {
  const int64_t planned = steps_of_plan(run);
  const std::vector<Session> sessions = sessions_of(run);
  const std::string why = sessions.empty() ? "" : sessions.back().why_ended;
  if (why == "done") return cat("finished at step ", run.steps);
  const std::string at = cat("at step ", run.steps, planned > run.steps ? cat(" of ", planned) : "");
  if (sessions.empty()) return at;
  return why.empty() ? at + ", at work or killed" : cat(at, ", ", why);
}

std::string tiles(const RunData& run) {
  const TimeAccount account = time_account(run);
  const bool gpu = !run.of("device_bytes").empty();
  const double tokens = run.last("tokens");
  return cat(
      "<div class=\"tiles\">\n", tile(cat(run.steps), "steps"),
      tile(std::isfinite(tokens) ? short_text(tokens) : "", "tokens read"),
      tile(figure(run.last("loss")), "training loss, nats per token"),
      tile(figure(run.last("held_out_bits_per_byte")), "held-out bits per byte, last"),
      tile(smallest(run, "held_out_bits_per_byte"), "held-out bits per byte, best"),
      tile(figure(std::round(run.median("tokens_per_s"))), "tokens per second, median"),
      tile(duration_text(account.total), "jobs were up"),
      tile(percent_text(account.goodput), "of it in steps that count"),
      tile(cat(run.skipped.size()), "steps without an update"),
      tile(cat(short_text(std::round(run.largest(gpu ? "device_bytes" : "rss_bytes") / 0x1p30 * 100) / 100),
               " GiB"),
           gpu ? "GPU memory, rank 0" : "memory, rank 0"),
      "</div>\n");
}

std::string layer_table(const RunData& run) {
  if (run.layers.empty()) return "";
  const LayersAtStep& at = run.layers.back();
  std::vector<std::vector<std::string>> rows;
  for (size_t l = 0; l < at.layers.size(); l++) {
    const LayerRecord& layer = at.layers[l];
    double load = std::nan("");
    for (double share : layer.expert_load) load = std::fmax(load, share * double(layer.expert_load.size()));
    const std::string mixer = std::isfinite(layer.delta_max) ? "Mamba" : "attention",
                      channel = layer.expert_load.empty() ? "MLP" : cat(layer.expert_load.size(), " experts");
    rows.push_back({cat(l), cat(mixer, " + ", channel), figure(layer.mixer_max), figure(layer.channel_max),
                    figure(layer.delta_min), figure(layer.delta_max), figure(load)});
  }
  return cat("<h3>Layers at step ", at.step, "</h3>\n",
             html_table({"#layer", "kind", "#largest output of the first", "#of the second", "#Δ smallest",
                         "#Δ largest", "#largest expert load"},
                        rows));
}

std::string sample_tables(const RunData& run) {
  constexpr size_t kPrompts = 16, kSteps = 10, kBytes = 600;
  std::vector<std::string> prompts;
  std::map<std::string, std::vector<SampleRecord>> by_prompt;
  for (const SampleRecord& sample : run.samples) {
    std::vector<SampleRecord>& list = by_prompt[sample.prompt];
    if (list.empty()) prompts.push_back(sample.prompt);
    list.push_back(sample);
  }
  std::string s;
  for (size_t i = 0; i < std::min(prompts.size(), kPrompts); i++) {
    s += cat("<h3>", escape_markup(shortened(prompts[i], kBytes)), " …</h3>\n<table><tbody>\n");
    for (const SampleRecord& sample : chosen(by_prompt[prompts[i]], kSteps))
      s += cat("<tr><td class=\"n\">step ", sample.step, "</td><td class=\"text\">",
               escape_markup(shortened(sample.text, kBytes)), "</td></tr>\n");
    s += "</tbody></table>\n";
  }
  if (prompts.size() > kPrompts)
    s += cat("<p class=\"soft\">", prompts.size() - kPrompts, " more prompts are in samples.jsonl.</p>\n");
  return s;
}

std::string time_tables(const RunData& run) {
  const TimeAccount account = time_account(run);
  if (!(account.total > 0)) return "";
  std::string s = time_bar(account) + "<table><tbody>\n";
  for (size_t i = 0; i < account.shares.size(); i++) {
    const TimeShare& share = account.shares[i];
    s += cat("<tr><td><svg class=\"swatch\" viewBox=\"0 0 10 10\"><rect class=\"bar c", i,
             "\" width=\"10\" height=\"10\"/></svg>", escape_markup(share.what), "</td><td class=\"n\">",
             duration_text(share.seconds), "</td><td class=\"n\">",
             percent_text(share.seconds / account.total), "</td></tr>\n");
  }
  return cat(s, "</tbody></table>\n<p class=\"soft\">As rank 0 saw it, of the ", duration_text(account.total),
             " that jobs of this run were up. Steps that made updates, their waits included: ",
             percent_text(account.goodput), ".</p>\n");
}

std::string skipped_table(const RunData& run) {
  if (run.skipped.empty()) return "";
  constexpr size_t kMost = 30;
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < std::min(run.skipped.size(), kMost); i++)
    rows.push_back({cat(run.skipped[i].first), shortened(run.skipped[i].second, 300)});
  const std::string table = html_table({"#step", "why"}, rows);
  if (run.skipped.size() <= kMost) return table;
  return cat(table, "<p class=\"soft\">And ", run.skipped.size() - kMost, " more in metrics.jsonl.</p>\n");
}

std::string session_table(const RunData& run) {
  constexpr size_t kMost = 40;
  const std::vector<Session> sessions = sessions_of(run);
  if (sessions.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  for (const Session& session : chosen(sessions, kMost)) {
    const Json* ranks = session.environment ? session.environment->find("ranks") : nullptr;
    const std::string why = !session.why_ended.empty()               ? session.why_ended
                            : session.start == sessions.back().start ? "killed, or still at work"
                                                                     : "killed";
    rows.push_back({time_text(session.start), duration_text(session.end - session.start),
                    cat(session.from_step), cat(session.to_step), cat(session.redone_steps),
                    ranks ? cat(ranks->integer) : "", shortened(why, 200)});
  }
  const std::string table = html_table(
      {"start", "#time up", "#from step", "#to step", "#steps done again", "#ranks", "how it ended"}, rows);
  if (sessions.size() <= kMost) return table;
  return cat(table, "<p class=\"soft\">", kMost, " of ", sessions.size(), " jobs.</p>\n");
}

std::string environment_table(const RunData& run) {
  const std::vector<Session> sessions = sessions_of(run);
  if (sessions.empty() || !sessions.back().environment) return "";
  std::vector<std::pair<std::string, std::string>> facts;
  for (const auto& [key, value] : sessions.back().environment->object) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', ' ');
    if (key == "memory_bytes")
      facts.emplace_back("memory", memory_text(value.integer));
    else
      facts.emplace_back(name, value.is(Json::Kind::string)    ? shortened(value.string, 2000)
                               : value.is(Json::Kind::integer) ? cat(value.integer)
                                                               : "");
  }
  return html_facts(facts);
}

}  // namespace jambalaya
