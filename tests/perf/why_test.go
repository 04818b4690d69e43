// SPDX-License-Identifier: Apache-2.0

package perf

// Where the time goes in parts that have missed their target, and what was tried. Shown on
// the page only where the target is missed.
const (
	whyCrash = "A worker of three owns 341 slots: 341 puts are 2.7 X of work for the members, after one put that records the end, " +
		"whoever does them. Slots of a reaped worker are taken over as they are; when they were freed by revoking the lease first, etcd deleted " +
		"341 keys before, which cost as much again. The heirs' transactions run side by side. What is left is the parent's wake-up, the watch, " +
		"and turns on cores that workers and members share."
	whyJoin = "The givers see the joining worker's registration, end the owners of what they give, and push it in one round of transactions " +
		"side by side: 341 puts, 2.7 X of work for the members, by two givers. Before, they pushed 128 slots a round and waited between rounds " +
		"until their mirror showed them."
	whyRestart = "The parent starts the new process beside the old one; agents redial with jitter."
	whyStall   = "The heirs adopt the hosts on the cores that the members need: at most 64 at a time, without reads, but each adopted host's " +
		"record is written once, because what only the old owner knew of its health is taken back, and again at the first word of the host."
	whyIdle = "See what was written."
	whyCold = "Workers that find a fleet without owners wait 500 ms before they take slots, so that those that start together share them. " +
		"The rest is reading all records three times and decoding them, on the same cores."
	whyCollateral = "Two targets meet here: no collateral, and no peak in hosts. Where weights and zones leave somebody with more hosts than its share and the heaviest " +
		"slot, slots are exchanged between two workers that stay. Without hosts on record nothing is ever exchanged."
	whyPeak = "Home zones come first as long as nobody is over its share of the hosts by more than the heaviest slot."
)
