// SPDX-License-Identifier: Apache-2.0

package ha

// Ignore says why an event of a kind, in a state, changes nothing where no row's
// condition holds. Rows and Ignored together cover every pair.
type Ignore struct {
	From []State
	On   Kind
	Why  string
}

// Ignored is the other half of the table.
var Ignored = []Ignore{
	{States, EvTick, "no deadline of the record has come"},
	{States, EvPartition, "recorded; the rows on facts decide"},
	{States, EvAdmin, "recorded; the rows on facts decide"},
	{States, EvEligible, "recorded; the rows on facts decide, an unknown answer keeps the last one"},
	{States, EvGate, "recorded; a generation that is not the gate's is stale"},
	{States, EvHello, "the boot on record, or one that is over"},
	{in(None, Ineligible), EvHealth, "recorded; HA does not look after the host now"},
	{in(Initializing, Unsupported), EvHealth, "recorded; the rows on facts decide, unknown is no failure"},
	{in(Available), EvHealth, "healthy, or still unknown, which is no failure"},
	{in(Suspect, Checking, Degraded), EvHealth, "nothing new: still failing, still passing, unknown, or a ping of an older boot"},
	{in(Recovering, Fencing), EvHealth, "still failing, or a ping that may have left before the hard off"},
	{in(Fenced), EvHealth, "no sign of life after the proof"},
	{in(Failed), EvHealth, "still failing, or unknown"},
	{States, EvGoodbye, "HA is switching the host off, or it was said by an older boot"},
	{States, EvActivity, "stale: no such check runs"},
	{States, EvPlace, "stale: no place is waited for"},
	{States, EvPower, "recorded; the rows on facts decide, a reading alone ends nothing"},
	{States, EvTxn, "stale: no such transaction runs"},
	{States, EvOperator, "an order nobody knows"},
	{in(None, Initializing, Available, Ineligible, Unsupported, Recovering, Fencing, Fenced, Failed), EvRepaired, "the incident went on"},
	{States, EvSeen, "recorded for the boot; what was seen alive only makes a later silence tell something"},
	{States, EvPolicy, "nothing is held; settings are read with every step"},
}

// severity of the events that the table and its rows raise.
var severity = map[string]Severity{
	"power.needs-human": Page,
	"ha.available":      Info, "ha.initializing": Info, "ha.ineligible": Info, "ha.checking": Info,
	"ha.suspect": Warning, "ha.degraded": Warning, "ha.unsupported": Warning, "ha.unprotected": Warning,
	"ha.recovering": Warning, "ha.fencing": Warning, "ha.fenced": Warning, "ha.failed": Page,
	"ha.confirm-abandoned": Warning,
	holdPlaced:             Warning, "ha.hold-cleared": Info,
	"power.contradicted": Warning, "power.external-off": Warning,
	"power.order-done": Info, "power.order-failed": Warning,
}
