// SPDX-License-Identifier: Apache-2.0

package ipmi

// Reason is why the guard dropped a datagram.
type Reason uint8

const (
	accepted Reason = iota
	// Malformed is anything that is not an RMCP+ packet of the right shape.
	Malformed
	// Unauthenticated is plaintext or unsigned inside a session, or no setup message before it.
	Unauthenticated
	// ForeignSession is an answer to another session or message tag.
	ForeignSession
	// BadIntegrity is a wrong integrity code.
	BadIntegrity
	// Replayed is a genuine packet seen before another one.
	Replayed
	// BadPadding is a payload that does not decrypt to a padded message.
	BadPadding
	// BadMessage is a decrypted message that is short or fails its checksums.
	BadMessage
	// BadProof is a wrong RAKP 2 or RAKP 4 code.
	BadProof
	// Weaker is an Open Session answer with other algorithms than asked for.
	Weaker
	// Unmatched is a genuine answer to a request no longer outstanding.
	Unmatched
	// Late is a repeated answer.
	Late

	reasons
)

var reasonNames = [reasons]string{"accepted", "malformed", "unauthenticated", "foreign-session", "bad-integrity",
	"replayed", "bad-padding", "bad-message", "bad-proof", "weaker", "unmatched", "late"}

func (r Reason) String() string { return reasonNames[r] }

// Hostile tells drops that a healthy device on a lossy network does not cause.
func (r Reason) Hostile() bool { return r != accepted && r != Unmatched && r != Late }

// Report counts what passed a guard during one connection.
type Report struct {
	Sent, Accepted uint64
	dropped        [reasons]uint64
}

func (r *Report) drop(why Reason) { r.dropped[why]++ }

// Dropped returns the drops by reason; reasons without any are absent.
func (r Report) Dropped() map[Reason]uint64 {
	m := map[Reason]uint64{}
	for why, n := range r.dropped {
		if n > 0 {
			m[Reason(why)] = n
		}
	}
	return m
}

// Hostile is the number of drops that are a security event.
func (r Report) Hostile() (n uint64) {
	for why, c := range r.dropped {
		if Reason(why).Hostile() {
			n += c
		}
	}
	return n
}
