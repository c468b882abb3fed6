// Values as people read them. Pure: no DOM, no clock.

/** Shown where there is no value. */
export const NONE = '–';

const known = (value) => typeof value === 'number' && Number.isFinite(value);

/** Seconds with three significant digits at most: "0.42 ms", "12.3 ms", "1.25 s", "4 min 12 s", "3 h 4 min", "2 d 5 h". */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds === 0) return '0 s';
  if (seconds < 0.9995) return `${significant(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${significant(seconds)} s`;
  const whole = Math.round(seconds);
  const [days, hours] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24];
  const [minutes, rest] = [Math.floor(whole / 60) % 60, whole % 60];
  if (days) return hours ? `${days} d ${hours} h` : `${days} d`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
}

/** Seconds as one unit, for what changes each second: "12 s", "4 min", "3 h", "2 d". */
export function age(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86400)} d`;
}

/** A number with three significant digits, without trailing zeros. */
export function significant(value) {
  if (!known(value)) return NONE;
  if (value !== 0 && Math.abs(value) < 0.01) return value.toExponential(1);
  const digits = Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
  const text = value.toFixed(digits);
  return digits ? text.replace(/\.?0+$/, '') : text;
}

/** Bytes in binary units: "512 B", "12.3 MiB". */
export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let [amount, unit] = [value, 0];
  while (amount >= 1023.5 && unit < units.length - 1) [amount, unit] = [amount / 1024, unit + 1];
  return `${unit ? significant(amount) : amount} ${units[unit]}`;
}

/** An integer with thin spaces between the thousands. */
export function count(value) {
  if (!known(value)) return NONE;
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u2009');
}

/** Per second. */
export function rate(value) {
  return known(value) ? `${value >= 1000 ? count(value) : significant(value)}/s` : NONE;
}

/** A share of 1 in percent; less than a ten-thousandth is 0. */
export function percent(share) {
  if (!known(share)) return NONE;
  return `${significant(Math.abs(share) < 1e-4 ? 0 : share * 100)} %`;
}

const two = (value) => String(value).padStart(2, '0');

/** Local time of day of a Unix time: "14:03:22", or with `digits` "14:03:22.123". */
export function time(unix, digits = 0) {
  if (!known(unix)) return NONE;
  const when = new Date(unix * 1000);
  const fraction = digits ? `.${String(when.getMilliseconds()).padStart(3, '0').slice(0, digits)}` : '';
  return `${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}${fraction}`;
}

/** Local date and time: "2026-12-01 14:03:22". */
export function dateTime(unix, digits = 0) {
  if (!known(unix)) return NONE;
  const when = new Date(unix * 1000);
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ${time(unix, digits)}`;
}

/** Time of day if it is of the same local day as `now`, else date and time. */
export function timeOrDate(unix, now, digits = 0) {
  if (!known(unix)) return NONE;
  const sameDay = new Date(unix * 1000).toDateString() === new Date(now * 1000).toDateString();
  return sameDay ? time(unix, digits) : dateTime(unix, digits);
}

/** "1 instance", "3 instances". */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? '' : 's'}`;
}

/** The name of an instance as the command line has it: "echo/0". */
export function instanceName(name, instance) {
  return `${name}/${instance}`;
}
