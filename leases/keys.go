// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Root is the prefix of every key.
const Root = "/holdfast/v1/"

// Prefixes for listing and mirroring.
const (
	WorkersPrefix    = Root + "workers/"
	SlotsPrefix      = Root + "slots/"
	EndsPrefix       = Root + "ends/"
	DrainsPrefix     = Root + "drains/"
	PartitionsPrefix = Root + "partitions/"
	BudgetsPrefix    = Root + "budgets/"
	AreasPrefix      = Root + "areas/"
	HostsPrefix      = Root + "hosts/"
	IncidentsPrefix  = Root + "incidents/"
	StepsPrefix      = Root + "steps/"
	OpsPrefix        = Root + "ops/"
	LinksPrefix      = Root + "links/"
	IndicesPrefix    = Root + "indices/"
	PoolsPrefix      = Root + "pools/"
	VolumesPrefix    = Root + "volumes/"
	TemplatesPrefix  = Root + "templates/"
	InstancesPrefix  = Root + "instances/"
	CommandsPrefix   = Root + "commands/"
	JournalPrefix    = Root + "journal/"
	EventsPrefix     = Root + "events/"
	AuditPrefix      = Root + "audit/"
	SettingsPrefix   = Root + "settings/"
	ProfilesPrefix   = Root + "profiles/"
	SecretsPrefix    = Root + "secrets/"
	TokensPrefix     = Root + "tokens/"
	RevokedPrefix    = Root + "revoked/"
	RequestsPrefix   = Root + "requests/"
	HooksPrefix      = Root + "hooks/"
	CursorsPrefix    = Root + "cursors/"

	AuthoritiesPrefix = Root + "authorities/"
	JoinsPrefix       = Root + "joins/"
	CertsPrefix       = Root + "certs/"
)

// The functions below only join: check ids with CheckID and CheckPath where they come
// in. Commit refuses a key that Schema does not know, so a bad id cannot be written.

// ConfigSlotsKey holds the number of slots, created once.
func ConfigSlotsKey() string { return Root + "config/slots" }

// ConfigGenerationKey holds the generation of the etcd data.
func ConfigGenerationKey() string { return Root + "config/generation" }

// ToldKey holds which workers and owners of slots the event log has told of.
func ToldKey() string { return Root + "config/told" }

// RequestKey is a request of the operator API that was named by its caller.
func RequestKey(id string) string { return RequestsPrefix + id }

// WorkerKey is a worker's registration, bound to its lease.
func WorkerKey(worker string) string { return WorkersPrefix + worker }

// SlotKey is the claim of a slot; its mod_revision is the epoch.
func SlotKey(slot int) string { return fmt.Sprintf("%s%04d", SlotsPrefix, slot) }

// EndsKey says how a worker's boot ended.
func EndsKey(worker, boot string) string { return EndsPrefix + worker + "/" + boot }

// DrainKey says that operators want a worker to own nothing.
func DrainKey(worker string) string { return DrainsPrefix + worker }

// PartitionSpecKey is what operators want of a partition; path is zone, zone/pod or zone/pod/cluster.
func PartitionSpecKey(path string) string { return PartitionsPrefix + path + "/spec" }

// PartitionStateKey is the partition machine's record.
func PartitionStateKey(path string) string { return PartitionsPrefix + path + "/state" }

// BudgetKey holds the power-downs of a scope: host/<host>, cluster/<zone>/<pod>/<cluster>,
// pod/<zone>/<pod> or zone/<zone>.
func BudgetKey(scope string) string { return BudgetsPrefix + scope }

// AreaKey is the incident of an area: <kind>/<name>, such as rack/z1/7, pool/nfs1 or
// cluster/z1/p1/c1.
func AreaKey(area string) string { return AreasPrefix + area }

// HostPrefix is one host's spec, ha and power records.
func HostPrefix(host string) string { return HostsPrefix + host + "/" }

// HostSpecKey is what operators want of a host.
func HostSpecKey(host string) string { return HostPrefix(host) + "spec" }

// HostHAKey is the host machine's record.
func HostHAKey(host string) string { return HostPrefix(host) + "ha" }

// HostPowerKey is the power machine's record.
func HostPowerKey(host string) string { return HostPrefix(host) + "power" }

// IncidentKey is one episode of suspicion.
func IncidentKey(host, id string) string { return IncidentsPrefix + host + "/" + id }

// StepKey is one decision of an incident with what it was made of.
func StepKey(host, incident string, n int) string {
	return fmt.Sprintf("%s%04d", StepsOf(host, incident), n)
}

// StepsOf is the prefix of an incident's steps.
func StepsOf(host, incident string) string { return StepsPrefix + host + "/" + incident + "/" }

// SplitStepKey is the inverse of StepKey.
func SplitStepKey(key string) (host, incident string, n int, ok bool) {
	rest, ok := strings.CutPrefix(key, StepsPrefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return "", "", 0, false
	}
	n, err := strconv.Atoi(parts[2])
	return parts[0], parts[1], n, err == nil && StepKey(parts[0], parts[1], n) == key
}

// OpsKey is a host's open power intent.
func OpsKey(host string) string { return OpsPrefix + host }

// LinkKey says who carries a host's link where that is not its owner.
func LinkKey(host string) string { return LinksPrefix + host }

// IndexKey says which host has an index of enrolment.
func IndexKey(index int) string { return IndicesPrefix + strconv.Itoa(index) }

// SplitIndexKey is the inverse of IndexKey.
func SplitIndexKey(key string) (index int, ok bool) {
	rest, ok := strings.CutPrefix(key, IndicesPrefix)
	n, err := strconv.ParseUint(rest, 10, 31)
	return int(n), ok && err == nil && IndexKey(int(n)) == key
}

// PoolKey is a storage pool's state.
func PoolKey(pool string) string { return PoolsPrefix + pool }

// VolumeKey is a volume's state.
func VolumeKey(volume string) string { return VolumesPrefix + volume }

// TemplateKey is a template and where it is copied to.
func TemplateKey(template string) string { return TemplatesPrefix + template }

// InstanceKey is an instance's state and holder.
func InstanceKey(instance string) string { return InstancesPrefix + instance }

// CommandKey is a command's record, fenced by its source host's slot.
func CommandKey(host, id string) string { return CommandsPrefix + host + "/" + id }

// JournalKey is one step an agent wrote for a command.
func JournalKey(host, id string, step int) string {
	return fmt.Sprintf("%s%s/%s/%02d", JournalPrefix, host, id, step)
}

// SplitCommandKey is the inverse of CommandKey.
func SplitCommandKey(key string) (host, id string, ok bool) {
	rest, ok := strings.CutPrefix(key, CommandsPrefix)
	if !ok {
		return "", "", false
	}
	host, id, ok = strings.Cut(rest, "/")
	return host, id, ok && host != "" && id != ""
}

// EventKey is one event; id is a UUIDv7.
func EventKey(id string) string { return EventsPrefix + id }

// EventsCutKey says up to where events were dropped from the log. It sorts beside the
// events, so that one watch shows both in one order.
func EventsCutKey() string { return Root + "events-cut" }

// HookKey is who is told of events.
func HookKey(hook string) string { return HooksPrefix + hook }

// CursorKey is how far a hook is told.
func CursorKey(hook string) string { return CursorsPrefix + hook }

// AuditKey is one audited mutation; id is a UUIDv7.
func AuditKey(id string) string { return AuditPrefix + id }

// SettingKey is one setting; scope is global, zone/<z>, pod/<z>/<p>, cluster/<z>/<p>/<c> or host/<h>.
func SettingKey(scope, name string) string { return SettingsPrefix + scope + "/" + name }

// ProfileKey is what one scope says of power devices; scopes are those of SettingKey.
func ProfileKey(scope string) string { return ProfilesPrefix + scope }

// SecretKey holds a device's sealed credentials.
func SecretKey(host, device string) string { return SecretsPrefix + host + "/" + device }

// TokenKey holds a hashed token.
func TokenKey(id string) string { return TokensPrefix + id }

// RevokedKey marks a certificate serial as revoked.
func RevokedKey(serial string) string { return RevokedPrefix + serial }

// AuthorityKey is one of the fleet's own authorities, its key sealed.
func AuthorityKey(id string) string { return AuthoritiesPrefix + id }

// JoinKey holds a hashed join token.
func JoinKey(id string) string { return JoinsPrefix + id }

// CertKey says of a certificate that the fleet has issued.
func CertKey(serial string) string { return CertsPrefix + serial }

// SplitSlotKey is the inverse of SlotKey.
func SplitSlotKey(key string) (slot int, ok bool) {
	rest, ok := strings.CutPrefix(key, SlotsPrefix)
	if !ok || len(rest) != 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 10, 16)
	return int(n), err == nil
}

// SplitHostKey splits hosts/<host>/<part>; part is spec, ha or power.
func SplitHostKey(key string) (host, part string, ok bool) {
	rest, ok := strings.CutPrefix(key, HostsPrefix)
	if !ok {
		return "", "", false
	}
	host, part, ok = strings.Cut(rest, "/")
	return host, part, ok && host != "" && (part == "spec" || part == "ha" || part == "power")
}

// SplitPartitionKey splits partitions/<path>/<part>; part is spec or state. The last
// segment is always the part, so a zone called "spec" is no riddle.
func SplitPartitionKey(key string) (path, part string, ok bool) {
	rest, ok := strings.CutPrefix(key, PartitionsPrefix)
	i := strings.LastIndexByte(rest, '/')
	if !ok || i <= 0 {
		return "", "", false
	}
	path, part = rest[:i], rest[i+1:]
	return path, part, part == "spec" || part == "state"
}

const idPattern = `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`

var idRegexp = regexp.MustCompile(`^` + idPattern + `$`)

// CheckID tests an id before it becomes part of a key. what names the field in the error,
// such as "host id".
func CheckID(what, id string) error {
	if !idRegexp.MatchString(id) {
		return fmt.Errorf("%s %q: want 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit", what, id)
	}
	return nil
}

// CheckPath tests a partition path: zone, zone/pod or zone/pod/cluster.
func CheckPath(what, path string) error {
	parts := strings.Split(path, "/")
	if len(parts) > 3 {
		return fmt.Errorf("%s %q: want zone, zone/pod or zone/pod/cluster", what, path)
	}
	for _, p := range parts {
		if err := CheckID(what+" segment", p); err != nil {
			return fmt.Errorf("%s %q: %w", what, path, err)
		}
	}
	return nil
}
