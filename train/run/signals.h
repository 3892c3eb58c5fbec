// Signals ask a run to save and leave; the handler only sets a flag, the trainer acts at the next step on all
// ranks.
#pragma once

namespace jambalaya {

/// SIGTERM, SIGUSR1 and the first SIGINT: save a checkpoint and leave with exit code 75. A second SIGINT ends
/// at once.
void watch_signals();
/// Number of the signal that asked to stop; 0: none.
int stop_signal();

}  // namespace jambalaya
